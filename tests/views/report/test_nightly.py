"""A nightly job as papermill users write it: run the notebook, make the page, look at the exit code. All for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from made_notebooks import KILL, with_cell
from places import HELPERS

from diag.values.exits import Exit
from diag.views.report.notebooks import REPORT, find_notebook

pytestmark = pytest.mark.slow
GRID = ["--device-map", "auto,disk", "--quantization", "none", "--hardware", "this machine"]


@dataclass
class Night:
    """What one night left: papermill's exit code, then what `diag report --from` says, and its files."""

    folder: Path
    papermill: int
    code: int
    said: str
    log: str

    @property
    def first_line(self) -> str:
        """The title that a reader of the page sees first, and the line that the command printed first."""
        first = self.said.splitlines()[0]
        assert first.split(".")[0] in unescape((self.folder / "report.html").read_text())
        return first

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "report.json").read_text())

    @property
    def suite(self) -> dict[str, str]:
        return dict(ElementTree.parse(self.folder / "report.junit.xml").getroot()[0].items())


def run(*arguments: object, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    own = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, env=own)


def night(folder: Path, *parameters: str, notebook: Path | None = None, **variables: str) -> Night:
    """`papermill report.ipynb out.ipynb -p …`, then `diag report --from out.ipynb`; every file must be there then."""
    small = ["-p", "device_maps", "auto,disk", "-p", "quantizations", "none"]
    source = notebook or find_notebook(REPORT)
    asked = ["papermill", source, "out.ipynb", "--no-progress-bar", *small, *parameters]
    ran = run("-m", *asked, folder=folder, **variables)
    made = run("-m", "diag", "report", "--from", "out.ipynb", "--out", "report.html", folder=folder, **variables)
    left = Night(folder, ran.returncode, made.returncode, made.stdout, ran.stderr + made.stderr)
    for name in ("report.html", "report.json", "report.md", "report.junit.xml", "report.ipynb"):
        assert (folder / name).stat().st_size > 100, left.log
    assert left.summary["exit_code"] == left.code
    return left


def worse_by_one_layer(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        names = [name for name in tensors if "layers.2.self_attn.v_proj" in name]
        if names:
            torch.manual_seed(0)
            tensors[names[0]] = torch.randn_like(tensors[names[0]])
            save_file(tensors, shard, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def before(tmp_path_factory, tiny_path) -> tuple[Path, Path]:
    """A model and the baseline of the night before."""
    folder = tmp_path_factory.mktemp("before")
    model = shutil.copytree(tiny_path, folder / "model")
    left = night(folder, "-p", "model", str(model), "-p", "write_baseline", "base.json")
    assert (left.papermill, left.code) == (0, Exit.AS_EXPECTED), left.log
    return model, folder / "base.json"


def test_a_healthy_model_is_as_expected(tmp_path, before):
    model, baseline = before
    left = night(tmp_path, "-p", "model", str(model), "-p", "baseline", str(baseline))
    assert (left.papermill, left.code) == (0, Exit.AS_EXPECTED), left.log
    assert left.first_line.startswith("As expected: 2 of 2 combinations of ")
    assert [row["standing"] for row in left.summary["rows"]] == ["same", "same"]
    assert [left.suite[name] for name in ("tests", "failures", "errors")] == ["2", "0", "0"]


def test_a_model_made_worse_by_one_layer_fails_the_gate(tmp_path, before):
    model, baseline = before
    bad = shutil.copytree(model, tmp_path / "model")
    worse_by_one_layer(bad)
    left = night(tmp_path, "-p", "model", str(bad), "-p", "baseline", str(baseline))
    assert (left.papermill, left.code) == (1, Exit.WORSE), left.log
    assert left.first_line.startswith("Worse than the baseline: 2 of 2 combinations")
    assert "the answer is off by about" in left.first_line
    assert "GateFailed" not in (tmp_path / "report.html").read_text().split("How this was made")[0]
    assert left.suite["failures"] == "2"
    assert "### Got worse" in (tmp_path / "report.md").read_text()
    beside = {path.name for path in tmp_path.glob("results.*")}
    assert beside == {"results.sqlite", "results.json", "results.md", "results.junit.xml"}


@pytest.mark.exhaustive
def test_a_model_that_does_not_exist_could_not_be_judged(tmp_path, before):
    left = night(tmp_path, "-p", "model", "./no-such-folder", "-p", "baseline", str(before[1]))
    assert (left.papermill, left.code) == (1, Exit.NOT_JUDGED), left.log
    assert left.first_line.startswith("Could not judge ./no-such-folder: ")
    assert "does not exist" in left.first_line


@pytest.mark.exhaustive
def test_a_gated_repository_could_not_be_judged(tmp_path):
    sys.path.insert(0, str(HELPERS))
    from hub_server import Hub

    hub = Hub(says=(403, {"X-Error-Code": "GatedRepo"}))
    settings = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    left = night(tmp_path, "-p", "model", "team/model", **settings)
    hub.shutdown()
    assert (left.papermill, left.code) == (1, Exit.NOT_JUDGED), left.log
    assert left.first_line.startswith("Could not judge team/model: The repository 'team/model' is gated")


def test_a_full_disk_could_not_be_judged_and_the_page_is_there(tmp_path, file_system_of):
    results = file_system_of("64k") / "results.sqlite"
    left = night(tmp_path, "-p", "model", "tiny", "-p", "results", str(results))
    assert (left.papermill, left.code) == (1, Exit.NOT_JUDGED), left.log
    assert left.first_line.startswith("Could not judge: there is no room for the results file")


@pytest.mark.exhaustive
def test_a_combination_that_dies_is_worse_than_one_that_worked(tmp_path, before):
    model, baseline = before
    killer = ["-p", "model", str(model), "-p", "baseline", str(baseline), "-p", "loader", "matrix_helpers:kills_itself"]
    left = night(tmp_path, *killer)
    assert (left.papermill, left.code) == (1, Exit.WORSE), left.log
    assert "was ok, is killed: SIGKILL while loading or running" in left.first_line


@pytest.mark.exhaustive
def test_a_kernel_that_dies_is_a_run_that_died_with_the_rows_it_had(tmp_path):
    half = "import os, diag\ndiag.matrix(asked.specs[:1], results=results)\n" + KILL
    source = with_cell(find_notebook(REPORT), tmp_path, half, before="frame = ")
    left = night(tmp_path, "-p", "model", "tiny", notebook=source)
    assert left.papermill != 0 and left.code == Exit.DIED, left.log  # papermill 2.7 says 138
    assert left.first_line.startswith("This report is incomplete: the kernel died")
    assert [row["status"] for row in left.summary["rows"]] == ["ok", "not_run"]
    assert "1 of 2 combinations of tiny work" in (tmp_path / "report.html").read_text()
    last = nbformat.read(tmp_path / "report.ipynb", 4).cells[-3:]
    assert "completed" not in [cell.metadata.papermill.status for cell in last]


def test_a_wrong_parameter_name_is_wrong_usage_before_anything_is_loaded(tmp_path):
    left = night(tmp_path, "-p", "modle", "tiny")
    assert (left.papermill, left.code) == (1, Exit.WRONG_USAGE), left.log
    assert left.first_line.startswith("Wrong usage: this notebook has no parameter 'modle'")
    assert not (tmp_path / "results.sqlite").exists()
    assert left.suite["errors"] == "1"


@pytest.mark.exhaustive
def test_a_list_that_arrives_as_text_is_read(tmp_path):
    lists = ["-p", "device_maps", '["auto", "cpu"]', "-p", "quantizations", "none, nf4", "-p", "timeout", "10m"]
    left = night(tmp_path, "-p", "model", "tiny", *lists)
    assert (left.papermill, left.code) == (0, Exit.AS_EXPECTED), left.log
    names = [f"{device_map} × {kind} on this machine" for device_map in ("auto", "cpu") for kind in ("none", "nf4")]
    assert [row["name"] for row in left.summary["rows"]] == names
    assert left.first_line == "4 of 4 combinations of tiny work on this machine"


@pytest.mark.exhaustive
def test_a_kernel_of_another_environment_is_named(tmp_path):
    """A second environment that sees the same packages, with its own kernel, run by this papermill."""
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    site = next(other.glob("lib/python*/site-packages"))
    (site / "same.pth").write_text("\n".join(path for path in sys.path if path and Path(path).is_dir()))
    kernel = tmp_path / "jupyter" / "kernels" / "other"
    kernel.mkdir(parents=True)
    argv = [str(other / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    left = night(tmp_path, "-p", "model", "tiny", "-k", "other", JUPYTER_PATH=str(tmp_path / "jupyter"))
    assert (left.papermill, left.code) == (1, Exit.NOT_JUDGED), left.log
    assert left.first_line.startswith("Could not judge: this kernel belongs to another environment")


def test_the_command_gates_like_the_notebook(tmp_path, before):
    model, baseline = before
    bad = shutil.copytree(model, tmp_path / "model")
    worse_by_one_layer(bad)
    done = run("-m", "diag", "report", bad, *GRID, "--baseline", baseline, "--out", "r.html", folder=tmp_path)
    assert done.returncode == Exit.WORSE, done.stderr
    assert done.stdout.startswith("Worse than the baseline: 2 of 2 combinations")
    for suffix in ("html", "json", "md", "junit.xml", "ipynb", "sqlite"):
        assert (tmp_path / f"r.{suffix}").exists()
    assert not (tmp_path / "r.html").read_text().count("This report is incomplete")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["-p", "modle=x"], "Wrong usage: report.ipynb has no parameter 'modle'"),
        (["--baseline", "absent.json"], "Wrong usage: there is no baseline 'absent.json'"),
    ],
)
def test_wrong_usage_of_the_command_leaves_its_page_where_one_was_named(tmp_path, wrong, said):
    done = run("-m", "diag", "report", "tiny", "--out", "r.html", *wrong, folder=tmp_path)
    assert done.returncode == Exit.WRONG_USAGE
    assert said in unescape((tmp_path / "r.html").read_text())
    assert json.loads((tmp_path / "r.json").read_text())["headline"] == said


@pytest.mark.exhaustive
def test_a_run_past_its_deadline_reports_what_it_has(tmp_path, before):
    _, baseline = before
    slow = ["--loader", "matrix_helpers:sleeps_forever", "--deadline", "60s", "--baseline", baseline]
    done = run("-m", "diag", "report", "tiny", *GRID, *slow, "--out", "r.html", folder=tmp_path)
    assert done.returncode == Exit.NOT_JUDGED, done.stdout + done.stderr
    assert "The deadline for the whole run passed" in (tmp_path / "r.html").read_text()
