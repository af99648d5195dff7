"""The results file: what was saved comes back as it was."""

import json
import math
import sqlite3
import zlib

import pandas as pd
import pytest

from diag.sweep.results.store import Store

SPEC = {"model": "tiny", "device_map": "auto", "max_memory": [[0, 10]], "dtype": None}


def placement_table(rows=3):
    """The column types of `diag.placement`, with tuples and missing values in them."""
    numbers = range(rows)
    return pd.DataFrame(
        {
            "name": pd.Series([f"model.layers.{i}.weight" for i in numbers], dtype="string"),
            "shape": pd.Series([(i, 64) if i % 3 else () for i in numbers], dtype="object"),
            "nbytes": pd.Series([i * 10**10 for i in numbers], dtype="int64"),
            "mapped_device": pd.Series([None if i % 2 else "disk" for i in numbers], dtype="string"),
            "tied_group": pd.Series([None if i % 2 else i for i in numbers], dtype="Int64"),
            "share": pd.Series([math.nan if i % 2 else i / 7 for i in numbers], dtype="float64"),
            "packed": pd.Series([None if i % 2 else True for i in numbers], dtype="boolean"),
            "last": pd.Series([bool(i % 2) for i in numbers], dtype="bool"),
        }
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


# --- what goes in comes out -------------------------------------------------------------------------------------------


def test_a_row_comes_back_with_its_kinds_of_nothing_and_of_one(path):
    row = {"kl": math.nan, "diff": None, "repeatable": True, "n": 1, "seconds": 1.0, "far": math.inf, "text": "ä\n\0"}
    with Store(path) as store:
        store.save("key", SPEC, row, None, {"warnings": ["a", "b"]})
    with Store(path) as store:
        back = store.rows()["key"]
        assert store.extra("key") == {"warnings": ["a", "b"]}
    assert list(back) == list(row)
    assert math.isnan(back.pop("kl"))
    assert {name: (type(v), v) for name, v in back.items()} == {n: (type(row[n]), row[n]) for n in back}


def test_numbers_of_numpy_are_saved_as_numbers(path):
    np = pytest.importorskip("numpy")
    with Store(path) as store:
        store.save("key", SPEC, {"n": np.int64(3), "ok": np.bool_(True), "kl": np.float32(0.5)})
        assert store.rows()["key"] == {"n": 3, "ok": True, "kl": 0.5}


def test_a_row_that_json_can_not_hold_is_refused_and_nothing_is_saved(path):
    with Store(path) as store:
        with pytest.raises(TypeError, match="not a set"):
            store.save("key", SPEC, {"devices": {"cpu"}})
        assert store.rows() == {}


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_placement_table_comes_back_with_its_types_tuples_and_missing_values(path, rows):
    table = placement_table(rows)
    with Store(path) as store:
        store.save("key", SPEC, {}, table, {})
        back = store.placement("key")
    pd.testing.assert_frame_equal(back, table)
    assert all(isinstance(shape, tuple) for shape in back["shape"])
    assert back["mapped_device"].isna().tolist() == table["mapped_device"].isna().tolist()


def test_the_table_that_placement_makes_comes_back_as_it_was(path):
    torch = pytest.importorskip("torch")
    import diag

    table = diag.placement(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)))
    with Store(path) as store:
        store.save("key", SPEC, {}, table, {})
        pd.testing.assert_frame_equal(store.placement("key"), table)


def test_nested_tuples_and_three_kinds_of_missing_are_told_apart(path):
    values = [((1, 2), ("a",)), None, pd.NA, math.nan, "text", 3]
    with Store(path) as store:
        store.save("key", SPEC, {}, pd.DataFrame({"any": pd.Series(values, dtype="object")}), {})
        back = store.placement("key")["any"].tolist()
    assert back[0] == ((1, 2), ("a",))
    assert back[1] is None
    assert back[2] is pd.NA
    assert isinstance(back[3], float)
    assert back[4:] == ["text", 3]


def test_a_column_type_that_would_not_come_back_is_refused(path):
    with Store(path) as store, pytest.raises(TypeError, match="datetime64"):
        store.save("key", SPEC, {}, pd.DataFrame({"when": pd.to_datetime(["2024-01-01"])}), {})


def test_fifty_thousand_rows_are_kept(path):
    table = placement_table(50_000)
    with Store(path) as store:
        store.save("key", SPEC, {}, table, {})
        pd.testing.assert_frame_equal(store.placement("key"), table)
    assert path.stat().st_size < 5 * 2**20


def test_a_spec_finds_its_newest_row_whatever_the_order_of_its_fields(path):
    with Store(path) as store:
        store.save("old versions", SPEC, {"n": 1})
        store.save("new versions", SPEC, {"n": 2})
        store.save("other", {**SPEC, "dtype": "float32"}, {"n": 3})
        assert store.find(dict(reversed(SPEC.items()))) == "new versions"
        store.save("old versions", SPEC, {"n": 4})
        assert store.find(SPEC) == "old versions"
        assert store.find({**SPEC, "model": "another"}) is None
        assert list(store.rows()) == ["new versions", "other", "old versions"]


def test_a_row_without_a_table_has_none(path):
    with Store(path) as store:
        store.save("key", SPEC, {})
        assert store.placement("key") is None
        assert store.placement("no such key") is None


def test_twins_answers_are_kept(path):
    with Store(path) as store:
        assert store.reference("twin") is None
        store.save_reference("twin", b"\x00\xffanswer")
        store.save_reference("twin", b"a newer one")
    with Store(path) as store:
        assert store.reference("twin") == b"a newer one"


def test_a_table_is_kept_as_compressed_json_and_nothing_lies_beside_the_file(path):
    with Store(path) as store:
        store.save("key", SPEC, {"status": "ok"}, placement_table(), {})
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    database = sqlite3.connect(path)
    (blob,) = database.execute("SELECT placement FROM cells").fetchone()
    assert json.loads(zlib.decompress(blob))["rows"] == 3


def test_a_row_that_is_used_again_becomes_the_newest_and_remembers_when(path):
    with Store(path) as store:
        store.save("old", SPEC, {"n": 1}, None, {"versions": {}})
        store.save("new", SPEC, {"n": 2}, None, {"versions": {}})
        before = store.times("old")
        store.note_use(["old"])
        assert store.keys_of(SPEC) == ("old", "new") and store.find(SPEC) == "old"
        assert list(store.rows()) == ["new", "old"]
        assert len(before) == 1 and store.times("old")[0] == before[0] < store.times("old")[1]
        store.save("third", SPEC, {"n": 3})
        assert store.find(SPEC) == "third" and store.times("absent") == ()
