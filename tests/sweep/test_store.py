"""The results file: what was saved is there, whoever writes at the same time and however it ends."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pandas as pd
import pytest

from diag.errors import DiagError
from diag.sweep.store import APPLICATION, SCHEMA, Store

WRITERS = Path(__file__).with_name("store_writers.py")
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


def test_twins_answers_and_the_environment_are_kept(path):
    with Store(path) as store:
        assert store.reference("twin") is None
        assert store.environment() is None
        store.save_reference("twin", b"\x00\xffanswer")
        store.save_reference("twin", b"a newer one")
        store.save_environment({"torch": "2.13.0"})
        store.save_environment({"torch": "2.14.0"})
    with Store(path) as store:
        assert store.reference("twin") == b"a newer one"
        assert store.environment() == {"torch": "2.14.0"}


def test_a_table_is_kept_as_compressed_json_and_nothing_lies_beside_the_file(path):
    with Store(path) as store:
        store.save("key", SPEC, {"status": "ok"}, placement_table(), {})
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    database = sqlite3.connect(path)
    (blob,) = database.execute("SELECT placement FROM cells").fetchone()
    assert json.loads(zlib.decompress(blob))["rows"] == 3


# --- files that are refused -------------------------------------------------------------------------------------------


def refusal(path, **how):
    with pytest.raises(DiagError) as caught:
        Store(path, **how)
    assert str(path) in caught.value.what
    assert caught.value.next_step
    return str(caught.value)


def test_a_file_of_another_kind_is_refused_and_left_alone(path):
    path.write_text("model,status\ntiny,ok\n" * 100)
    before = path.read_bytes()
    assert "not an SQLite database" in refusal(path)
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE customers (name)")
    other.close()
    before = path.read_bytes()
    assert "another program" in refusal(path)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_diag_is_refused(path):
    Store(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    database.close()
    text = refusal(path)
    assert f"its format is {SCHEMA + 1}" in text
    assert "upgrade diag" in text


def test_a_damaged_file_is_refused(path):
    with Store(path) as store:
        store.save("key", SPEC, {"text": "x" * 50_000})
    data = bytearray(path.read_bytes())
    data[100:4096] = os.urandom(3996)
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_a_folder_that_is_not_there_and_a_path_that_is_a_folder_are_named(tmp_path):
    assert "make the folder first" in refusal(tmp_path / "missing" / "results.sqlite")
    assert "is a folder" in refusal(tmp_path)


def test_reading_needs_a_file_and_does_not_make_one(path):
    assert "does not exist" in refusal(path, must_exist=True)
    assert not path.exists()


def test_an_empty_file_becomes_a_results_file(path):
    path.touch()
    with Store(path) as store:
        store.save("key", SPEC, {})
    assert path.read_bytes()[68:72] == APPLICATION.to_bytes(4, "big")


def test_a_path_with_signs_that_mean_something_in_an_address_is_taken_as_it_is(tmp_path):
    path = tmp_path / "50% off? #1 & more.sqlite"
    with Store(path) as store:
        store.save("key", SPEC, {})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


AS_NOBODY = """
import os, sys
from diag.sweep.store import Store
if os.geteuid() == 0:  # root may write everywhere
    os.setgid(65534)
    os.setuid(65534)
print(Store(sys.argv[1], must_exist=sys.argv[2] == "read").rows())
"""


@pytest.fixture
def shared_path():
    """A saved file in a folder where others may read and not write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.sqlite"
        with Store(path) as store:
            store.save("key", SPEC, {"n": 1})
        path.parent.chmod(0o555)
        yield path
        path.parent.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX users")
@pytest.mark.parametrize("mode", [0o444, 0o666])
def test_a_place_without_write_permission_is_named_before_anything_is_run(shared_path, mode):
    shared_path.chmod(mode)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, shared_path, "write"], capture_output=True, text=True)
    assert "is not writable" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX users")
def test_a_file_that_may_only_be_read_can_be_read(shared_path):
    shared_path.chmod(0o444)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, shared_path, "read"], capture_output=True, text=True)
    assert done.stdout.strip() == "{'key': {'n': 1}}", done.stderr


def test_a_reader_changes_nothing(path):
    with Store(path) as store:
        store.save("key", SPEC, {"n": 1})
    before = path.read_bytes()
    with Store(path, must_exist=True) as store:
        assert store.rows() == {"key": {"n": 1}}
        with pytest.raises(DiagError):
            store.save("other", SPEC, {})
    assert path.read_bytes() == before


# --- others, kills and full disks -------------------------------------------------------------------------------------


def start(*arguments):
    return subprocess.Popen([sys.executable, WRITERS, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_writers_at_the_same_time_lose_nothing(path):
    writers = [start("save_some", path, name, 25) for name in "abc"]
    with Store(path) as store:
        for number in range(25):
            store.save(f"here-{number}", {"number": number}, {"status": "ok"})
            assert f"here-{number}" in store.rows()
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    with Store(path) as store:
        assert len(store.rows()) == 100


def test_a_writer_killed_at_any_moment_loses_at_most_the_row_it_was_writing(path):
    for round_ in range(4):
        writer = start("save_forever", path, f"w{round_}")
        printed = [writer.stdout.readline() for _ in range(3 + 5 * round_)]
        os.kill(writer.pid, signal.SIGKILL)
        saved = [line.strip() for line in [*printed, *writer.stdout] if line.endswith("\n")]
        writer.wait()
        with Store(path) as store:
            own = [key for key in store.rows() if key.startswith(f"w{round_}-")]
            assert own[: len(saved)] == saved
            assert len(own) <= len(saved) + 1
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_reading_works_while_another_process_writes(path):
    Store(path).close()
    writer = start("save_forever", path, "w", 0.05)
    try:
        seen = 0
        for _ in range(20):
            with Store(path, must_exist=True) as store:
                rows = store.rows()
            assert len(rows) >= seen
            seen = len(rows)
            writer.stdout.readline()
        assert seen > 10
    finally:
        writer.kill()
        writer.wait()


def test_a_file_that_somebody_keeps_locked_is_named_as_that(path, monkeypatch):
    monkeypatch.setattr("diag.sweep.store.BUSY_SECONDS", 0.1)
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DiagError, match="another process has held it"):
            store.save("key", SPEC, {})
        other.execute("ROLLBACK")
        store.save("key", SPEC, {"n": 1})
        assert store.rows() == {"key": {"n": 1}}
        other.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system with one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def save_until_refused(store):
    """The keys that were saved, and how the next one was refused."""
    saved = []
    try:
        while len(saved) < 100:
            store.save(f"key {len(saved)}", SPEC, {"text": f"{len(saved)}" + "x" * 40_000})
            saved.append(f"key {len(saved)}")
    except DiagError as error:
        return saved, str(error)
    return saved, "never refused"


def test_a_full_disk_is_named_costs_one_row_and_can_be_freed(small_disk):
    path = small_disk / "results.sqlite"
    with Store(path) as store:
        saved, refused = save_until_refused(store)
        assert "the disk is full" in refused
        assert "what was saved before is intact" in refused
        assert 5 < len(saved) < 30
        assert list(store.rows()) == saved
        subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
        store.save("after", SPEC, {"text": "x" * 40_000})
    with Store(path) as store:
        assert list(store.rows()) == [*saved, "after"]


LIMITED = """
import resource, sys
from diag.sweep.store import Store
from diag.errors import DiagError
with Store(sys.argv[1]) as store:
    store.save("small", {}, {"n": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        store.save("large", {}, {"text": "x" * 100_000})
    except DiagError as e:
        print(e)
    print(store.rows())
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_quota_is_named_too(path):
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True)
    assert "disk is full or has a quota" in done.stdout, done.stderr
    assert "{'small': {'n': 1}}" in done.stdout
