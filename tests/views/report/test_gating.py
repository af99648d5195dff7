"""What papermill hands over is read, or refused before anything is loaded."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from diag.errors import SpecError
from diag.sweep.results.gate import Gate, JudgedRow
from diag.values.exits import Exit
from diag.views.report import artefacts, gating
from diag.views.report.ending import how_it_ended
from diag.views.report.gating import asked_for, baseline_files
from diag.views.report.notebooks import (
    REPORT,
    NotebookError,
    assignments,
    check_names,
    declared_parameters,
    environment_of,
    find_notebook,
    parameters_of,
)

SMALL = {"model": "tiny", "device_maps": "auto,disk", "quantizations": '["none"]', "hardware": "this machine"}


def test_the_names_are_those_of_the_report():
    assert set(gating.PARAMETERS) == declared_parameters(find_notebook(REPORT))


def test_text_becomes_lists_times_and_numbers():
    asked = asked_for({**SMALL, "timeout": "10m", "budget": "90s", "max_loads": "3", "deadline": "null"})
    assert [(s.device_map, s.quantization) for s in asked.specs] == [("auto", "none"), ("disk", "none")]
    assert asked.how == {"timeout": 600.0, "budget": 90.0, "deadline": None, "max_loads": 3}


def test_further_options_reach_the_spec_and_the_run_and_are_read_as_what_they_are():
    """`{"yes": "no"}` once said yes."""
    asked = asked_for({**SMALL, "options": '{"dtype": "bfloat16", "workers": 1}', "loader": "a.b:c", "adapter": "None"})
    assert {spec.dtype for spec in asked.specs} == {"bfloat16"} and asked.specs[0].loader == "a.b:c"
    assert asked.specs[0].adapter is None and asked.how["workers"] == 1
    texts = {"yes": "no", "fresh": "true", "memory_limit": "2GiB", "workers": "2"}
    read = {"yes": False, "fresh": True, "memory_limit": 2 * 2**30, "workers": 2}
    assert asked_for({**SMALL, "options": texts}).how.items() >= read.items()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"timeout": "soon"}, "is not a time"),
        ({"max_loads": "many"}, "is not a whole number"),
        ({"max_loads": 0}, "runs nothing"),
        ({"options": "fast"}, "not a JSON object"),
        ({"options": {"wrokers": 1}}, "no parameter 'wrokers'"),
        ({"device_maps": "autoo"}, "autoo"),
        ({"baseline": "/no/such/file.json"}, "there is no baseline"),
        *[
            ({name: value}, f"{name}=.* is not valid")
            for name in ("device_maps", "quantizations")
            for value in (5, 1.5, True, None, "", [], "None")
        ],
        *[({"device_maps": value}, "device_map=") for value in ([None], [5], [["auto"]])],
        ({"quantizations": [True]}, "quantization="),
        ({"hardware": 3}, "hardware=3"),
        ({"hardware": [3]}, "hardware=3"),
        *[({"options": value}, "not a JSON object") for value in (5, [1], "[1]", True)],
        *[({"options": {"yes": value}}, "neither true nor false") for value in ("maybe", 2, [])],
        ({"options": {"workers": "two"}}, "workers='two' is not a whole number"),
        ({"options": {"memory_limit": "2 apples"}}, "memory_limit: '2 apples' is not a size"),
        ({"options": {"max_memory": 5}}, "max_memory=5"),
        ({"options": {1: 1}}, "no parameter '1'"),
        *[({"model": value}, "model=") for value in (None, "None", 5, ["tiny", "smollm2"], "")],
        *[({"max_loads": value}, "is not a whole number") for value in (2.7, True, [], float("inf"))],
        *[({"timeout": value}, "is not a time") for value in (True, [], {}, -1, float("nan"))],
        *[
            ({name: value}, f"{name}=.* is not valid")
            for name in ("baseline", "write_baseline", "results")
            for value in (5, ["x"])
        ],
        ({"baseline": True}, "baseline=True"),
        *[({name: 5}, f"{name}=5") for name in ("probe", "loader", "adapter")],
    ],
)
def test_values_that_can_not_be_are_wrong_usage(values, said):
    with pytest.raises(SpecError, match=said):
        asked_for({**SMALL, **values})


def test_only_names_that_were_set_and_are_none_of_the_parameters_are_refused():
    check_names(["model"], gating.PARAMETERS)
    with pytest.raises(NotebookError, match="no parameter 'device_mapz'") as refused:
        check_names(["device_mapz"], gating.PARAMETERS)
    assert refused.value.next_step == "did you mean 'device_maps'?"
    assert [name for name, _ in assignments("# Parameters\nmodel = 'x'\nrows = [1,\n 2]\n")] == ["model", "rows"]


def test_which_baseline_is_read_and_which_is_written(tmp_path):
    old = tmp_path / "b.json"
    assert baseline_files(str(old), None, "d") == (str(old), None)
    assert baseline_files(str(old), True, "d") == (None, str(old)), "not there yet: nothing to compare"
    old.write_text("{}")
    assert baseline_files(str(old), True, "d") == (str(old), str(old))
    assert baseline_files(str(old), "new.json", "d") == (str(old), "new.json")
    assert baseline_files(None, "False", "d") == (None, None)


def test_the_environment_of_a_program_is_the_folder_above_its_own(tmp_path):
    program = tmp_path / "env" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    assert environment_of(str(program), "") is None
    (tmp_path / "env" / "pyvenv.cfg").touch()
    assert environment_of(str(program), "") == str(tmp_path / "env")
    assert environment_of("python", str(program.parent)) == str(tmp_path / "env")
    assert environment_of("absent", "") is None
    assert environment_of(sys.executable, "") in (None, sys.prefix)


# --- notebooks that others ran ----------------------------------------------------------------------------------------


def cells(*counts, error=None, tags=()):
    made = []
    for position, count in enumerate(counts, start=1):
        cell = nbformat.v4.new_code_cell(f"step({position})", execution_count=count)
        cell.metadata["papermill"] = {"status": "completed"}
        made.append(cell)
    if error is not None:
        made[error].outputs = [nbformat.v4.new_output("error", ename="OSError", evalue="no", traceback=[])]
    made[-1].metadata["tags"] = list(tags)
    return nbformat.v4.new_notebook(cells=made)


def test_what_papermill_calls_completed_is_not_believed():
    assert how_it_ended(cells(1, 2, 3)).ok
    died = how_it_ended(cells(1, 2, None))
    assert (died.how, died.cell, died.line) == ("died", 2, "step(2)")
    failed = how_it_ended(cells(1, 2, None, error=1))
    assert (failed.how, failed.cell, failed.why) == ("error", 2, "OSError: no")
    assert how_it_ended(cells(1, 2, tags=["gate"])).how == "died", "the last cell always shows what it wrote"
    with pytest.raises(NotebookError, match="never run"):
        how_it_ended(cells(None, None))


def test_injected_parameters_win_and_only_literals_are_read():
    nb = cells(1, 1, 1)
    nb.cells[0].source, nb.cells[0].metadata.tags = "model = 'a'  # which\ntimeout = 5.0\nx = open('y')", ["parameters"]
    nb.cells[1].source, nb.cells[1].metadata.tags = "# Parameters\nmodel = 'b'\n", ["injected-parameters"]
    assert parameters_of(nb) == {"model": "b", "timeout": 5.0}


# --- artefacts --------------------------------------------------------------------------------------------------------

HOSTILE = "<b>x</b> \x1b[31m| `a` ]]> \x00 token=hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"
STANDINGS = {"worse": "killed", "unjudged": "not_run", "same": "ok", "new": "unsupported"}
ROWS = tuple(JudgedRow(f"{standing} × none", status, standing, HOSTILE) for standing, status in STANDINGS.items())


def test_junit_has_a_case_a_row_and_survives_any_text():
    root = ElementTree.fromstring(artefacts.as_junit(Gate(Exit.WORSE, HOSTILE, ROWS), []))
    (suite,) = root
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    assert "hf_aBc" not in ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize("code", [Exit.DIED, Exit.WRONG_USAGE, Exit.NOT_JUDGED])
def test_a_run_that_failed_as_a_whole_is_an_error_in_junit(code):
    (suite,) = ElementTree.fromstring(artefacts.as_junit(Gate(code, "It failed", ()), []))
    assert suite.get("errors") == "1" and suite[0][0].get("message") == "It failed"


def test_markdown_puts_the_outcome_first_and_shows_signs_as_they_are():
    text = artefacts.as_markdown(Gate(Exit.WORSE, "Worse", ROWS, (), ("3 rows are new.",)))
    assert text.startswith("## Worse\n\nExit code 1 (worse than the baseline).\n\n- 3 rows are new.")
    assert "\\<b\\>x" in text and "hf_aBc" not in text and "\x1b" not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(ROWS) and all(line.count("|") == 4 for line in table)


def test_files_are_written_beside_each_other_even_with_dots_in_the_name(tmp_path):
    paths = artefacts.write_summaries(tmp_path / "model.v2", Gate(Exit.AS_EXPECTED, "Fine", ROWS[2:3]))
    assert [path.name for path in paths] == ["model.v2.json", "model.v2.md", "model.v2.junit.xml"]
    assert json.loads(paths[0].read_text())["outcome"] == "as_expected"


def test_the_cell_after_the_parameters_checks_and_the_last_one_gates():
    nb = nbformat.read(find_notebook(REPORT), as_version=4)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert "gating.read(globals())" in code[1].source
    assert code[-1].source == "gating.finish(frame, gate, asked)" and code[-1].metadata.tags == ["gate"]
    assert all(isinstance(node, ast.Assign) for node in ast.parse(code[0].source).body)
    assert Path(find_notebook(REPORT)).name == REPORT
