"""However a notebook ends, the executed copy says so truthfully, and nothing secret reaches it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from made_notebooks import KILL, notebook

from diag.views.report.execute import Run, _ending, _Watch, run_notebook

pytestmark = pytest.mark.slow
TOKEN = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"


def states(nb) -> list[str]:
    own = [cell for cell in nb.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    return [cell.metadata.papermill.status for cell in own]


def run_of(folder: Path, *sources: str, model: str = "x", **how) -> Run:
    return run_notebook(notebook(folder, *sources), folder / "out.ipynb", {"model": model}, **how)


def test_a_notebook_that_ends_well_is_finished(tmp_path):
    run = run_of(tmp_path, "1 + 1")
    assert run.ended.ok
    assert states(run.nb) == ["completed", "completed"]
    assert nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs[0].data["text/plain"] == "2"


def test_papermill_alone_calls_the_cells_of_a_dead_kernel_completed(tmp_path):
    with pytest.raises(Exception, match="Kernel died"):
        papermill.execute_notebook(notebook(tmp_path, KILL, "1"), tmp_path / "out.ipynb", progress_bar=False)
    assert set(states(nbformat.read(tmp_path / "out.ipynb", 4))) == {"completed"}


@pytest.mark.parametrize(
    ("source", "deadline", "how", "why"),
    [
        (KILL, None, "died", "SIGKILL"),
        ("import time; time.sleep(600)", 4, "timeout", "the time for the whole run was up"),
        ("1 / 0", None, "error", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_ended_a_run_is_told_with_its_cell_and_its_last_line(tmp_path, source, deadline, how, why):
    ended, nb = (run := run_of(tmp_path, source, "1", deadline=deadline)).ended, run.nb
    assert ended.how == how and why in ended.why
    assert nb.cells[ended.cell - 1].source == source and ended.cells == len(nb.cells)
    assert ended.line == source.splitlines()[-1]
    assert states(nb) == ["completed", "failed", "pending"]


def test_a_kernel_that_ends_itself_is_not_called_out_of_memory(tmp_path):
    ended = run_of(tmp_path, "import os; os._exit(3)").ended
    assert ended.how == "died"
    assert "exit code 3" in ended.why and "memory" not in ended.why


def test_lines_are_passed_on_while_the_notebook_runs(tmp_path):
    waiting = tmp_path / "go-on"
    said: list[str] = []

    def note(line: str) -> None:
        said.append(line)
        waiting.touch()  # the notebook goes on only if its first line arrived while it was running

    source = f"import os, time\nprint('first', flush=True)\nwhile not os.path.exists({str(waiting)!r}): time.sleep(0.1)"
    run = run_of(tmp_path, source, deadline=60, say=note)
    assert run.ended.ok
    assert said == ["first"]


def test_lines_that_would_colour_a_terminal_are_written_out(tmp_path):
    said: list[str] = []
    run_of(tmp_path, r"print('\x1b[31mred')", say=said.append)
    assert said == [r"\x1b[31mred"]


@pytest.mark.parametrize(
    "source",
    [
        f"print('token {TOKEN}')",
        f"raise RuntimeError('401 for https://user:s3cretpass@hub/x with {TOKEN}')",
        "import os; print(os.environ['MY_SERVICE_PASSWORD'])",
        "import os; print(os.path.expanduser('~/models/x'))",
        f"from IPython.display import HTML; HTML('<b>{TOKEN}</b>')",
        f"token = '{TOKEN}'",
    ],
)
def test_secrets_and_home_paths_are_in_nothing_that_is_written(tmp_path, monkeypatch, source):
    monkeypatch.setenv("HOME", str(tmp_path / "home-of-someone"))
    monkeypatch.setenv("MY_SERVICE_PASSWORD", "correct-horse-battery-9")
    run = run_of(tmp_path, source, model=f"https://me:s3cretpass@host/{TOKEN}")
    for text in ((tmp_path / "out.ipynb").read_text(), json.dumps(run.nb), json.dumps(run.ended.to_json())):
        for secret in (TOKEN, "s3cretpass", "correct-horse-battery-9", "home-of-someone"):
            assert secret not in text


def test_what_is_saved_while_a_cell_runs_is_redacted_already(tmp_path):
    out = tmp_path / "out.ipynb"
    token = f"'{TOKEN[:9]}' + '{TOKEN[9:]}'"
    saved = f"from pathlib import Path\nprint(Path({str(out)!r}).read_text().count({token}))"
    run = run_of(tmp_path, saved, model=TOKEN)
    assert run.nb.cells[-1].outputs[0].text.strip() == "0"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_termination_leave_a_truthful_notebook_and_no_kernel(tmp_path, sent):
    waits = "import os\nprint('kernel', os.getpid(), flush=True)\nimport time\ntime.sleep(600)"
    source = notebook(tmp_path, waits, "1")
    program = (
        "import json, sys; from pathlib import Path\n"
        "from diag.views.report.execute import run_notebook\n"
        f"run = run_notebook(Path({str(source)!r}), Path({str(tmp_path / 'out.ipynb')!r}), {{}},"
        " say=lambda line: print(line, flush=True))\n"
        "print(json.dumps(run.ended.to_json()))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    kernel = int(process.stdout.readline().split()[1])
    process.send_signal(sent)
    said, _ = process.communicate(timeout=60)
    assert json.loads(said.splitlines()[-1])["how"] == "interrupted"
    assert not Path(f"/proc/{kernel}").exists()
    assert (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(("deadline", "how"), [(None, "died"), (0.0, "timeout"), (1e12, "died")])
def test_a_kernel_that_does_not_start_died_and_no_cell_of_it_failed(deadline, how):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    ended = _ending(RuntimeError("Kernel died before replying to kernel_info"), _Watch(deadline), nb)
    assert (ended.how, ended.cell) == (how, None)
    assert how == "timeout" or "did not start: Kernel died" in ended.why


def test_a_kernel_is_waited_for_no_longer_than_the_run_may_take():
    assert _Watch(None).startup_seconds == 120
    assert _Watch(time.monotonic() + 10).startup_seconds in (9, 10) and _Watch(0.0).startup_seconds == 1
