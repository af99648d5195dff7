"""diff says in words what changed between two results files."""

import subprocess
import sys

import pytest

from diag.sweep.results.diffing import diff
from diag.sweep.results.rows import blank_row
from diag.sweep.results.store import Store
from diag.values.spec import LoadSpec

OLD = {"torch": "2.12.0", "python": "3.11"}
NEW = {"torch": "2.13.0", "python": "3.11"}


def row(device_map="auto", status="ok", model="tiny", placed=None, **values):
    made = blank_row(LoadSpec(model, device_map), status, f"It is {status}.")
    facts = {"placed": placed or {"cuda:0": 4 * 2**20}, "map": '{"": 0}', "checkpoint": "a", "dtype": "float32"}
    return {**made, "facts": facts, "answer": "Paris", "peak_host_bytes": 2**30, **values}


def file(path, rows, versions):
    with Store(path) as store:
        for number, one in enumerate(rows):
            store.save(f"{number}", one["spec"], one, None, {"versions": versions})
    return path


@pytest.fixture
def files(tmp_path):
    def make(old, new, versions=NEW):
        return file(tmp_path / "old.sqlite", old, OLD), file(tmp_path / "new.sqlite", new, versions)

    return make


def test_equal_files_have_no_difference(files):
    found = diff(*files([row()], [row()], OLD))
    assert str(found) == "Nothing changed: 1 rows are the same in old.sqlite and new.sqlite."
    assert not found.worse


def test_versions_statuses_maps_sizes_and_answers_are_said_in_words(files):
    moved = {"map": '{"": "cpu"}', "placed": {"cpu": 4 * 2**20}, "checkpoint": "b", "dtype": "float32"}
    old = [row(), row("cpu"), row("disk"), row("none")]
    rome = row("disk", answer="Rome", peak_host_bytes=2**31)
    text = str(diff(*files(old, [row(status="killed"), row("cpu", facts=moved), rome, row("none")])))
    assert text.splitlines()[0] == (
        "From old.sqlite to new.sqlite: 3 rows got worse, 0 changed otherwise, 1 are the same, 0 are gone, 0 are new."
    )
    for said in (
        "version of torch: 2.12.0 → 2.13.0",
        "worse: auto × none on this machine\n  status: was ok, is killed: It is killed.",
        "placement: weights moved: cpu: 0 B → 4 MiB; cuda:0: 4 MiB → 0 B",
        "checkpoint: the model's files changed in between",
        "map: the device map changed in 1 entries, '' from 0 to cpu first",
        "answer: the answer changed: “Rome” instead of “Paris”",
        "size: peak on host: 1 GiB → 2 GiB",
    ):
        assert said in text, text
    assert "version of python" not in text and "load_seconds" not in text


def test_rows_of_only_one_file_are_listed(files):
    text = str(diff(*files([row(), row("disk")], [row(), row("cpu")])))
    assert "only in old.sqlite: disk × none on this machine" in text
    assert "only in new.sqlite: cpu × none on this machine" in text


def test_the_same_model_in_another_folder_is_compared(files):
    text = str(diff(*files([row(model="/nightly/24")], [row(model="/nightly/25", answer="Rome")])))
    assert "“Rome” instead of “Paris”" in text and "only in" not in text


def test_the_command_prints_it_and_says_1_where_a_row_got_worse(files):
    old, new = files([row()], [row(status="killed")])
    command = [sys.executable, "-m", "diag", "diff"]
    worse = subprocess.run([*command, str(old), str(new)], capture_output=True, text=True, timeout=120)
    assert worse.returncode == 1 and "was ok, is killed" in worse.stdout, worse.stderr
    better = subprocess.run([*command, str(new), str(old)], capture_output=True, text=True, timeout=120)
    assert better.returncode == 0 and "was killed, is ok" in better.stdout


def test_one_row_of_another_version_is_mentioned(files, tmp_path):
    old, new = files([row(), row("cpu")], [row(), row("cpu")], OLD)
    with Store(new) as store:
        store.save("0", row()["spec"], row(), None, {"versions": {**OLD, "torch": "9.9"}})
    assert diff(old, new).versions["torch"][0] == "2.12.0"
    assert sorted(diff(old, new).versions["torch"][1].split(" and ")) == ["2.12.0 (1 row)", "9.9 (1 row)"]


@pytest.mark.parametrize("wrong", ["absent.sqlite", "folder", "text.json", "empty.sqlite"])
def test_a_file_that_is_no_results_file_is_wrong_usage(files, tmp_path, wrong, capsys):
    from diag.views.cli.main import main

    old, _ = files([row()], [row()])
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.json").write_text("[]" * 999)
    (tmp_path / "empty.sqlite").touch()
    for pair in ([old, tmp_path / wrong], [tmp_path / wrong, old]):
        assert main(["diff", *map(str, pair)]) == 2
        said = capsys.readouterr().err
        assert "Next: " in said and ("does not exist" in said) == (wrong == "absent.sqlite")
