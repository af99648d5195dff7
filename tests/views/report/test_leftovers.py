"""A run that did not come to its end shows its own rows, and never those of the night before."""

from __future__ import annotations

import time

import nbformat
import pytest

from diag.sweep.results.rows import blank_row
from diag.sweep.results.store import Store
from diag.values.spec import LoadSpec
from diag.views.report.leftovers import Window, partial, stored_frame, window_of

AUTO, DISK = LoadSpec("tiny", "auto"), LoadSpec("tiny", "disk")


def save(path, key, spec, reason="It works.") -> None:
    with Store(path) as store:
        store.save(key, spec.to_json(), blank_row(spec, "ok", reason), None, {"versions": {}})


@pytest.fixture
def stored(tmp_path):
    """Last night's rows of the same folder, whose weights have been replaced since."""
    path = tmp_path / "r.sqlite"
    save(path, "auto of last night", AUTO)
    save(path, "disk of last night", DISK)
    time.sleep(0.01)
    return path


def statuses(*asked) -> list[str]:
    return list(stored_frame([AUTO, DISK], *asked)["status"])


def test_rows_of_an_earlier_run_are_not_this_runs_own(stored):
    """It said "2 of 2 work" of weights that were never loaded."""
    tonight = Window(time.time())
    assert statuses(stored, tonight) == ["not_run", "not_run"]
    frame = stored_frame([AUTO, DISK], stored, tonight)
    assert partial([AUTO, DISK], frame, stored).text.startswith("0 of 2 combinations of tiny work")
    save(stored, "auto of tonight", AUTO)
    assert statuses(stored, tonight) == ["ok", "not_run"]


def test_rows_that_this_run_took_as_they_were_are_its_own(stored):
    tonight = Window(time.time())
    save(stored, "auto of other weights", AUTO, "Other weights.")
    with Store(stored) as store:
        store.note_use(["auto of last night"])
    frame = stored_frame([AUTO, DISK], stored, tonight)
    assert list(frame["status"]) == ["ok", "not_run"] and frame["reason"][0] == "It works."


def test_rows_after_the_run_are_not_its_own_and_a_run_of_unknown_time_has_none(stored):
    earlier = Window(time.time() - 3600, time.time() - 1800)
    assert statuses(stored, earlier) == statuses(stored, Window(None)) == ["not_run", "not_run"]


def test_a_notebook_says_itself_when_it_ran():
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    assert window_of(nb) == Window(None)
    nb.cells[0].metadata["execution"] = {"iopub.execute_input": "1970-01-01T00:02:00.5Z"}
    assert window_of(nb) == Window(120.5)
    nb.metadata["papermill"] = {"start_time": "1970-01-01T00:01:00+00:00", "end_time": "1970-01-01T00:03:00+00:00"}
    assert window_of(nb) == Window(60.0, 180.0)
