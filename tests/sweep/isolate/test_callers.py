"""Isolation seen from its callers: what a cell sees of them, what is left after it, and how they end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from isolation_helpers import CELLS, PYTHONPATH, call, forks, gone, run_script, task, wait_for

from diag.errors import DiagError
from diag.machine import processes as posix
from diag.sweep.isolate import launch
from diag.sweep.isolate import pool as isolate
from diag.sweep.isolate.pool import run

# --- what is left behind ----------------------------------------------------------------------------------------------


@forks
def test_processes_that_a_cell_started_end_with_it_even_in_a_session_of_their_own():
    pids = call("leave_processes_behind").value
    assert len(pids) == 3
    assert [gone(pid) for pid in pids] == [True, True, True]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_temporary_files_of_a_cell_that_was_killed_are_removed(tmp_path, monkeypatch, method):
    if method == "spawn":
        monkeypatch.setattr(posix, "start_method", lambda: "spawn")
    assert call("leave_temporary_files", str(tmp_path / "note")).death.error_type == "SIGKILL"
    folder = (tmp_path / "note").read_text()
    assert "diag-cell" in folder
    assert not os.path.exists(folder)


# --- the caller's surroundings ----------------------------------------------------------------------------------------


def seen(*names):
    return call("surroundings", names).value


@forks
def test_a_supervisor_is_kept_while_nothing_changes():
    assert seen()["parent"] == seen()["parent"]


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "https_proxy", "DEVICE_MAP"])
def test_a_cell_sees_the_environment_as_it_is_at_the_call(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    first = seen(name)
    monkeypatch.setenv(name, "1")
    second = seen(name)
    monkeypatch.delenv(name)
    third = seen(name)
    assert [s["environment"][name] for s in (first, second, third)] == [None, "1", None]
    assert first["parent"] != second["parent"]  # what is read while a module is imported is read anew


def test_a_cell_sees_the_callers_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert seen()["folder"] == str(tmp_path)


def test_a_cell_sees_the_callers_path_and_a_module_that_was_edited(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my_loader.py").write_text("ANSWER = 1")
    assert call("answer_of", "my_loader").value == 1
    (tmp_path / "my_loader.py").write_text("ANSWER = 42")
    assert call("answer_of", "my_loader").value == 42


@forks
def test_a_preload_that_fails_is_left_to_the_cells(monkeypatch, tmp_path):
    (tmp_path / "fails_at_import.py").write_text("raise RuntimeError('broken')")
    (tmp_path / "leaves_at_import.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    preload = ("no_such_module_anywhere", "fails_at_import", "leaves_at_import", "json.tool")
    loaded = call("loaded", ["json.tool", "fails_at_import"], preload=preload).value
    assert loaded == {"json.tool": True, "fails_at_import": False}
    assert call("answer_of", "fails_at_import", preload=preload).death.error_type == "RuntimeError"


@forks
def test_a_preload_that_ends_the_supervisor_is_an_error_that_says_so(monkeypatch, tmp_path):
    (tmp_path / "ends_at_import.py").write_text("import os\nprint('last words')\nos.write(1, b'gone')\nos._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DiagError) as caught:
        list(run([task("double", 1)], preload=("ends_at_import",)))
    assert "ended with exit 7 at its start" in caught.value.what
    assert "gone" in caught.value.why
    assert "import ends_at_import" in caught.value.next_step


@forks
def test_what_is_preloaded_neither_initialises_cuda_nor_imports_bitsandbytes():
    names = ("torch", "transformers.modeling_utils", "pandas", "bitsandbytes")
    state, modules = run([task("torch_state"), task("loaded", names)], threads=1)
    assert state.value == {"threads": 1, "cuda": False, "fork is safe": True, "variable": "1", "sum": 27_000_000.0}
    assert modules.value == {**dict.fromkeys(names, True), "bitsandbytes": False}


@pytest.mark.gpu
@forks
def test_a_cell_can_use_the_gpu_after_the_preload():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    assert call("gpu_sum", preload=isolate.HEAVY).value == 9.0


# --- callers of every kind --------------------------------------------------------------------------------------------


SCRIPT = f"""
import multiprocessing
with open("times run", "a") as note:
    note.write("x")
from diag.sweep.isolate.pool import Task, run
print([e.value for e in run([Task("a", "{CELLS}:double", 1), Task("b", "{CELLS}:double", 2)], preload=())])
print(multiprocessing.active_children(), multiprocessing.get_start_method(allow_none=True))
"""
EXPECTED = ["[2, 4]", "[] None"]


@pytest.mark.parametrize("how", [[], ["-"]], ids=["a file", "standard input"])
def test_a_script_without_a_main_guard_works_and_runs_once(tmp_path, how):
    done = run_script(SCRIPT, tmp_path, *how)
    assert done.stdout.splitlines() == EXPECTED, done.stderr
    assert (tmp_path / "times run").read_text() == "x"


def test_a_module_of_the_users_folder_can_not_take_the_place_of_the_standard_library(tmp_path):
    (tmp_path / "json.py").write_text("raise RuntimeError('this is not json')")
    script = f"import sys; sys.path.remove({str(tmp_path)!r})\n" + SCRIPT.replace("times run", "times")
    done = run_script(script, tmp_path)
    assert done.stdout.splitlines() == EXPECTED, done.stderr


@pytest.mark.slow
def test_a_notebook_works_and_an_interrupt_of_its_kernel_keeps_what_was_finished(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    note = str(tmp_path / "pids")
    tasks = f'[Task("a", "{CELLS}:double", 1), Task("b", "{CELLS}:note_and_hang", {note!r})]'
    cells = [
        "from diag.sweep.isolate.pool import Task, run\nkept = []",
        f"try:\n    for ended in run({tasks}, preload=()):\n        kept.append(ended.value)\n"
        "except KeyboardInterrupt:\n    print('interrupted', kept)",
        f'print([e.value for e in run([Task("c", "{CELLS}:double", 3)], preload=())])',
    ]
    client = nbclient.NotebookClient(new_notebook(cells=[new_code_cell(c) for c in cells]), timeout=120)
    client.resources["metadata"] = {"path": str(tmp_path)}

    def interrupt():
        wait_for(note)
        kernel = psutil.Process(int(Path(note).read_text().split()[1])).parent()
        os.killpg(os.getpgid(kernel.pid), signal.SIGINT)  # as Jupyter's stop button does

    thread = threading.Thread(target=interrupt)
    thread.start()
    notebook = client.execute()
    thread.join()
    texts = ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells]
    assert texts == ["", "interrupted [2]\n", "[6]\n"]
    assert gone(int(Path(note).read_text().split()[0]))


HANGING = f"""
import os, sys
from diag.sweep.isolate.pool import Task, run
kept = []
try:
    tasks = [Task("a", "{CELLS}:double", 1), Task("b", "{CELLS}:note_and_hang", sys.argv[1])]
    for ended in run(tasks, preload=()):
        kept.append(ended.value)
        print(ended.value, flush=True)
        if len(sys.argv) > 2 and os.fork() == 0:
            os.execvp("sleep", ["sleep", "600"]) if sys.argv[2] == "exec" else __import__("time").sleep(600)
except KeyboardInterrupt:
    print("interrupted with", kept, flush=True)
"""


@contextlib.contextmanager
def hanging_script(tmp_path, *arguments):
    """A caller in a group of its own, waiting for a cell that hangs; gives it and the cell's processes."""
    note = tmp_path / "pids"
    caller = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(note), *arguments],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield caller, [int(pid) for pid in wait_for(note).split()]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(caller.pid, signal.SIGKILL)
        caller.wait()
        caller.stdout.close()


@forks
def test_ctrl_c_ends_the_cells_and_keeps_what_was_yielded(tmp_path):
    with hanging_script(tmp_path) as (caller, pids):
        os.killpg(caller.pid, signal.SIGINT)
        assert caller.stdout.read() == "2\ninterrupted with [2]\n"
        assert caller.wait() == 0
        assert [gone(pid) for pid in pids] == [True] * 3


@forks
@pytest.mark.parametrize("fork", [[], ["plain"], ["exec"]], ids=["alone", "with a fork", "with a forked program"])
def test_the_sudden_death_of_the_caller_leaves_no_process(tmp_path, fork):
    with hanging_script(tmp_path, *fork) as (caller, pids):
        os.kill(caller.pid, signal.SIGKILL)
        assert [gone(pid) for pid in pids] == [True] * 3


@forks
def test_the_sudden_death_of_the_supervisor_leaves_no_cell(tmp_path):
    with hanging_script(tmp_path) as (caller, (cell, supervisor, other)):
        os.kill(supervisor, signal.SIGKILL)
        assert gone(cell)
        assert caller.wait(timeout=60) == 0
        os.kill(other, signal.SIGKILL)  # in a session of its own, with nobody left to know it


@forks
def test_the_sudden_death_of_the_supervisor_leaves_no_temporary_files(tmp_path):
    note = tmp_path / "note"
    list(run([task("kill_parent_from_a_folder", str(note))], preload=()))
    assert not os.path.exists(wait_for(note))


def test_what_had_ended_before_an_interrupt_is_given_before_it_is_raised_again(tmp_path):
    note, interrupted = tmp_path / "pid", threading.Event()

    def asked():  # between two looks at the queue, where Ctrl-C arrives too
        if interrupted.is_set():
            raise KeyboardInterrupt
        return False

    tasks = [task("double", 1), task("note_and_double", (str(note), 2)), task("hang")]
    running = run(tasks, preload=(), cancelled=asked)
    assert next(running).value == 2
    assert gone(int(wait_for(note)))
    interrupted.set()
    kept, end = [], "at the end"
    try:
        kept.extend(ended.value for ended in running)
    except KeyboardInterrupt:
        end = "interrupted"
    assert (kept, end) == ([4], "interrupted")


def test_the_idle_supervisor_can_be_ended():
    parent = seen()["parent"]
    launch.close_idle()
    assert gone(parent)
