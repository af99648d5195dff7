"""One command, one file: complete when all goes well, truthful when it does not, and fit for a gate either way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from made_notebooks import KILL, notebook, with_cell
from page_reader import outside_resources

import diag
from diag.errors import DiagError
from diag.machine.torch_devices import accelerators
from diag.values.exits import Exit
from diag.views.report import report
from diag.views.report.notebooks import REPORT, find_notebook
from diag.views.report.report import default_hardware, file_name, write_report

SMALL = {"device_maps": ["auto", "disk"], "quantizations": ["none"], "hardware": ["this machine"]}
HALF = "diag.matrix(diag.grid(model, device_maps[:1], quantizations, hardware), results=results)"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    said: list[str] = []
    return write_report("tiny", folder / "tiny.html", say=said.append, **SMALL), said


@pytest.mark.slow
def test_the_verdict_is_the_heading_and_the_exit_code_fits(finished):
    result, _ = finished
    assert result.headline == "2 of 2 combinations of tiny work on this machine"
    assert f"<h1>{result.headline}</h1>" in result.path.read_text()
    assert result.exit_code is Exit.AS_EXPECTED


@pytest.mark.slow
def test_the_report_is_one_small_file_that_has_every_section_and_asks_for_nothing(finished):
    html = finished[0].path.read_text()
    assert outside_resources(html) == []
    assert len(html) < 3_000_000
    sections = ["This machine", "Every combination", "Where the weights are", "Memory and time", "The answer"]
    sections += ["What did not work, and why", "Every figure"]
    places = [html.index(f"<h2>{section}</h2>") for section in sections]
    assert places == sorted(places)


@pytest.mark.slow
def test_the_executed_notebook_and_the_rows_are_beside_the_report_and_each_row_was_said(finished):
    result, said = finished
    assert sum("on this machine: ok" in line for line in said) == 2
    nb = nbformat.read(result.notebook, as_version=4)
    assert nb.metadata.papermill.parameters.model == "tiny"
    assert len(diag.placement_of(result.results, diag.LoadSpec("tiny", "disk")))


@pytest.mark.slow
def test_rows_that_were_finished_are_shown_when_the_kernel_dies(tmp_path):
    source = with_cell(find_notebook(REPORT), tmp_path, f"{HALF}\n{KILL}", before="frame = ")
    source = with_cell(source, tmp_path, "import diag", before="diag.matrix")
    result = write_report("tiny", tmp_path / "tiny.html", notebook=source, **SMALL)
    html = result.path.read_text()
    assert result.exit_code is Exit.DIED
    assert html.index("the kernel died") < html.index("1 of 2 combinations of tiny work")
    assert "SIGKILL" in html and "1</b>" in html
    assert "The run ended before this combination was loaded." in html
    assert outside_resources(html) == []
    assert result.headline.startswith("This report is incomplete: the kernel died")
    executed = nbformat.read(result.notebook, as_version=4)
    assert executed.cells[0].source.startswith("> **This report is incomplete")
    assert "completed" not in [cell.metadata.papermill.status for cell in executed.cells[-3:]]


@pytest.mark.slow
def test_a_run_out_of_time_says_so_and_calls_nothing_finished_that_was_not(tmp_path):
    source = with_cell(find_notebook(REPORT), tmp_path, "import time; time.sleep(600)", before="frame = ")
    result = write_report("tiny", tmp_path / "tiny.html", notebook=source, deadline=5, **SMALL)
    assert (result.exit_code, result.ended.how) == (Exit.NOT_JUDGED, "timeout")
    html = result.path.read_text()
    assert "its time was up" in html and "0 of 2 combinations of tiny work" in html and "2</b>" in html


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_model_that_nobody_has_could_not_be_judged(tmp_path):
    result = write_report("no-one/has-this", tmp_path / "x.html", **SMALL)
    assert result.exit_code is Exit.NOT_JUDGED
    assert "0 of 2 combinations of no-one/has-this work" in result.path.read_text()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_hostile_names_and_secrets_of_a_real_run_stay_out(tmp_path, tiny_path, monkeypatch):
    home = tmp_path / "home-of-someone"
    model = home / "<script>alert(1)</script>\x1b[31m"
    shutil.copytree(tiny_path, model)
    monkeypatch.setenv("HF_TOKEN", "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345")
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")))
    monkeypatch.setenv("HOME", str(home))
    probe = "password=hunter2hunter2 hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345 <b>bold</b>"
    result = write_report(str(model), tmp_path / "out.html", probe=probe, **SMALL)
    for text in (result.path.read_text(), result.notebook.read_text(), json.dumps(result.to_json())):
        text = text.replace("<wbr>", "")
        assert not [secret for secret in ("hf_aBcDeF", "hunter2", "home-of-someone", "\x1b") if secret in text]
    assert outside_resources(result.path.read_text()) == []
    assert "<b>bold" not in result.path.read_text()


def test_unknown_parameters_are_refused_with_the_valid_names(tmp_path):
    with pytest.raises(DiagError) as refused:
        write_report("tiny", tmp_path / "x.html", parameters={"device_mapz": []}, **SMALL)
    assert "device_maps" in refused.value.why
    assert refused.value.next_step == "did you mean 'device_maps'?"
    assert list(tmp_path.iterdir()) == []


def test_values_and_notebooks_that_can_not_be_are_refused_before_anything_runs(tmp_path):
    asked = {"has no parameter": {"notebook": notebook(tmp_path, "1")}, "autoo": {"device_maps": ["autoo"]}}
    asked["there is no notebook .* looked for"] = {"notebook": tmp_path / "nothing.ipynb"}
    for said, values in asked.items():
        with pytest.raises(DiagError, match=f"(?s){said}"):
            write_report("tiny", tmp_path / "x.html", **{**SMALL, **values})


def test_a_model_name_becomes_a_file_name_without_folders():
    names = {"../../etc/passwd": "passwd", "owner/name.v2": "name.v2", "<script>": "script", "///": "model"}
    assert {name: file_name(name) for name in [*names, "../my model/"]} == {**names, "../my model/": "my-model"}


def test_without_an_accelerator_a_pair_of_gpus_is_simulated_that_one_would_not_do_for():
    machines = default_hardware("tiny")
    if accelerators():
        pytest.skip("this machine has an accelerator")
    assert machines[0] == "this machine"
    (pair,) = [diag.Hardware.parse(text) for text in machines[1:]]
    from diag.loading.checkpoint.find import find_checkpoint

    nbytes = find_checkpoint("tiny").nbytes
    assert len(pair.gpus) == 2
    assert pair.gpus[0] < nbytes < sum(pair.gpus)


def test_a_model_that_can_not_be_found_is_not_simulated():
    assert default_hardware("no-one/has-this") == ["this machine"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_the_report_with_the_rows_so_far(tmp_path):
    code = f"import time, diag\n{HALF}\nprint('half', flush=True)\ntime.sleep(600)"
    source = with_cell(find_notebook(REPORT), tmp_path, code, before="frame = ")
    grid = ["--device-map", "auto,disk", "--quantization", "none", "--hardware", "this machine"]
    command = [sys.executable, "-m", "diag", "report", "tiny", "--notebook", str(source), *grid]
    command += ["--out", str(tmp_path / "x.html")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.strip().endswith("half"):
            break
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == Exit.DIED
    assert "it was interrupted" in said
    html = Path(tmp_path / "x.html").read_text()
    assert "1 of 2 combinations of tiny work" in html


def test_the_deadline_counts_from_the_start_of_the_process_and_leaves_time_for_the_page(monkeypatch):
    """`--deadline 40s` once took 56 s: starting, and writing the page, came on top."""
    monkeypatch.setattr("diag.views.report.report.time.time", lambda: 1000.0)
    assert report._until(None, None) is None
    assert report._until(40, None) == 1000 + 40 - 8
    assert report._until(40, 985.0) == 985 + 40 - 8
    assert report._until(7200, 985.0) == 985 + 7200 - 15
    assert report._seconds_for_matrix(1010.0) == 8.0
    assert report._seconds_for_matrix(4000.0) == 3000 - 60
    assert report._seconds_for_matrix(900.0) == 1.0, "late already: it still says so in its own words"
