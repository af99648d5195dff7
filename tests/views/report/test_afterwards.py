"""Pages of notebooks that others ran: every artefact, whatever was in them, and never a green light by default."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

from diag.sweep.results.rows import blank_row
from diag.sweep.results.store import Store
from diag.values.exits import Exit
from diag.values.spec import LoadSpec
from diag.views.cli.main import main
from diag.views.report.afterwards import Window, partial, report_from, stored_frame, window_of
from diag.views.report.notebooks import NotebookError
from diag.views.report.verdict import VERDICT_MIME

SUFFIXES = (".html", ".json", ".md", ".junit.xml")


def executed(folder: Path, *outputs, source="1 + 1", parameters="", name="out.ipynb") -> Path:
    cells = [nbformat.v4.new_code_cell(text, execution_count=1) for text in (parameters or "rows = 1", source)]
    cells[0].metadata["tags"] = ["parameters"]
    cells[1].outputs = list(outputs)
    path = folder / name
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def all_written(folder: Path, code: Exit) -> dict:
    for suffix in SUFFIXES:
        assert (folder / f"out{suffix}").stat().st_size > 50
    said = json.loads((folder / "out.json").read_text())
    assert said["exit_code"] == code
    return said


def test_a_notebook_without_a_verdict_could_not_be_judged(tmp_path):
    """Anybody's notebook once came out as expected, because it ran to its end."""
    result = report_from(executed(tmp_path))
    assert result.exit_code is Exit.NOT_JUDGED
    assert "no verdict of diag in it" in result.headline
    page = (tmp_path / "out.html").read_text()
    assert "no verdict of diag in it" in page and "report.ipynb" in page and "It ended" not in page
    assert "no verdict" in all_written(tmp_path, Exit.NOT_JUDGED)["headline"]


def test_a_verdict_decides_and_what_only_looks_like_one_does_not(tmp_path):
    def shown(value):
        return nbformat.v4.new_output("display_data", {VERDICT_MIME: value, "text/plain": "x"})

    assert report_from(executed(tmp_path, shown({"exit_code": 1, "headline": "Worse"}))).exit_code is Exit.WORSE
    for value in ("text", {"exit_code": 0}, {"exit_code": 77, "headline": "x"}, {"exit_code": [], "headline": "x"}):
        assert report_from(executed(tmp_path, shown(value))).exit_code is Exit.NOT_JUDGED


@pytest.mark.parametrize("wrong", ["device_maps = 5", "options = [1]", "hardware = 3", "model = None", "model = ["])
def test_parameters_of_a_wrong_type_leave_every_file(tmp_path, wrong):
    """`-p device_maps 5` once left a traceback of diag itself and no file at all."""
    model = "model = 'tiny'\ndevice_maps = ['auto']\nquantizations = ['none']\n"
    said = {"ename": "SpecError", "evalue": "that is not valid.", "traceback": ["that is not valid."]}
    path = executed(tmp_path, nbformat.v4.new_output("error", **said), parameters=model + wrong)
    assert report_from(path).exit_code is Exit.WRONG_USAGE
    assert all_written(tmp_path, Exit.WRONG_USAGE)["headline"].startswith("Wrong usage: that is not valid")


CELL = {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [], "source": "1"}


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1}, [1, 2], "text", {"cells": "x"}, {"cells": ["x"]}, {"cells": [5]}, {"cells": [{}]},
        {"cells": [{**CELL, "outputs": "x"}]}, {"cells": [{**CELL, "outputs": ["x"]}]},
        {"cells": [{**CELL, "metadata": []}]}, {"cells": [{**CELL, "source": 5}]}, {"cells": [CELL], "metadata": 5},
        {"worksheets": "x", "nbformat": 3, "nbformat_minor": 0},
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_wrong_usage(tmp_path, value, capsys):
    if isinstance(value, dict) and "cells" in value:
        value = {"metadata": {}, "nbformat": 4, "nbformat_minor": 4, **value}
    (tmp_path / "x.ipynb").write_text(json.dumps(value))
    code = main(["report", "--from", str(tmp_path / "x.ipynb"), "--out", str(tmp_path / "out.html")])
    said = capsys.readouterr().err
    assert code == Exit.WRONG_USAGE and "Next: " in said and "Traceback" not in said
    all_written(tmp_path, Exit.WRONG_USAGE)


@pytest.fixture
def small(file_system_of):
    return file_system_of("64k")


@pytest.mark.parametrize(("said", "code"), [(0, Exit.NOT_JUDGED), (1, Exit.WORSE)])
def test_a_page_that_the_disk_has_no_room_for_is_named_and_the_rest_is_kept(
    tmp_path, small, said, code, capsys, monkeypatch
):
    """It once left only "No space left on device"."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    large = {VERDICT_MIME: {"exit_code": said, "headline": "It works"}, "text/html": "x" * 100_000}
    path = executed(tmp_path, nbformat.v4.new_output("display_data", large))
    assert main(["report", "--from", str(path), "--out", str(small / "page.html")]) == code
    shown = capsys.readouterr()
    assert f"No space left on device: {small / 'page.html'}. It is in {tmp_path / 'page.html'} instead." in shown.err
    assert "Finished rows are in " in shown.err and "Next: make room" in shown.err
    assert "It works" in shown.out and str(tmp_path / "page.html") in shown.out
    kept = json.loads((small / "page.json").read_text())
    assert kept["exit_code"] == code and any("No space left" in text for text in kept["warnings"])
    assert (tmp_path / "page.html").stat().st_size > 100_000 and (small / "page.junit.xml").exists()


def test_a_notebook_that_is_not_there_is_wrong_usage(tmp_path):
    with pytest.raises(NotebookError, match="can't be read"):
        report_from(tmp_path / "no.ipynb")


# --- only the run's own rows, and never those of the night before -----------------------------------------------------

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
