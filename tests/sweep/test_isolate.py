"""One call in a process of its own: however it ends, it is named, its neighbours and the caller go on."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from diag import posix
from diag.errors import DiagError
from diag.sweep import isolate, launch
from diag.sweep.isolate import Task, run
from diag.sweep.wire import LOG_LIMIT

CELLS = "misbehaving_cells"
HERE = str(Path(__file__).parent)
forks = pytest.mark.skipif(posix.start_method() != "forkserver", reason="needs a supervisor that forks")


def task(function, argument=None, key=None, timeout=None):
    return Task(key or function, f"{CELLS}:{function}", argument, timeout)


def call(function, argument=None, timeout=60.0, **how):
    """One call, alone."""
    (ended,) = run([task(function, argument, timeout=timeout)], preload=how.pop("preload", ()), **how)
    return ended


def gone(pid, seconds=20.0):
    """Whether a process ends in time; one that only waits to be collected has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


def wait_for(path, seconds=60.0):
    end = time.monotonic() + seconds
    while not Path(path).exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)
    return Path(path).read_text()


# --- how a call can end -----------------------------------------------------------------------------------------------

LIMIT = 400 * 2**20
DEATHS = [  # function, argument, status, error_type, what the text must hold
    ("kill_itself", None, "killed", "SIGKILL", "about to go"),
    ("exit_with", 3, "killed", "exit 3", "leaving with 3"),
    ("exit_with", 0, "killed", "exit 0", "before it gave a result"),
    ("call_sys_exit", "so long", "killed", "exit 1", "so long"),
    ("segfault", None, "killed", "SIGSEGV", "in segfault"),
    ("abort", None, "killed", "SIGABRT", "in abort"),
    ("hang", None, "timeout", "TimeoutError", "in hang"),
    ("hang_deaf", None, "timeout", "TimeoutError", "in hang_deaf"),
    ("fail", "no such luck", "raised", "ValueError", "no such luck"),
    ("fail_with_a_class_of_its_own", None, "raised", "Local", "can't be pickled"),
    ("return_a_function", None, "raised", "AttributeError", "returned a function that can't be sent"),
    ("no_such_function", None, "raised", "AttributeError", "no_such_function"),
]


@pytest.fixture(scope="module", params=["forkserver", "spawn"])
def crowd(request):
    """All deaths in one run, each with a healthy neighbour before and after it."""
    if request.param == "forkserver" and posix.start_method() != "forkserver":
        pytest.skip("no fork server here")
    tasks = [task("double", 0, "healthy first")]
    for number, (function, argument, *_) in enumerate(DEATHS):
        tasks += [task(function, argument, f"death {number}", 3.0), task("double", number, f"healthy {number}", 60.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posix, "start_method", lambda: request.param)
        ended = list(run(tasks, workers=2, preload=()))
    assert len(ended) == len(tasks)
    return {e.key: e for e in ended}


@pytest.mark.parametrize("number", range(len(DEATHS)), ids=[f"{d[0]}({d[1]})" for d in DEATHS])
def test_a_cell_that_dies_is_named_as_what_it_was(crowd, number):
    _, _, status, error_type, text = DEATHS[number]
    ended = crowd[f"death {number}"]
    assert (ended.death.status, ended.death.error_type, ended.value) == (status, error_type, None)
    assert text in ended.death.text


def test_neighbours_of_cells_that_die_are_intact(crowd):
    values = {key: ended.value for key, ended in crowd.items() if key.startswith("healthy")}
    assert values == {"healthy first": 0, **{f"healthy {n}": 2 * n for n in range(len(DEATHS))}}
    assert all(crowd[key].death is None for key in values)


def test_a_timeout_tells_how_long_and_ends_then(crowd):
    ended = crowd[f"death {[d[0] for d in DEATHS].index('hang')}"]
    assert ended.death.text.startswith("No result after 3.")
    assert 3.0 <= ended.seconds < 30.0


def test_an_exception_shows_the_callers_code_and_not_ours():
    text = call("fail", "x").death.text
    assert "misbehaving_cells.py" in text
    assert "child.py" not in text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a memory limit needs Linux")
def test_a_cell_that_takes_memory_without_end_is_out_of_memory_and_its_neighbour_is_not():
    tasks = [task("take_memory_without_end"), task("double", 4)]
    first, second = run(tasks, preload=(), memory_limit=LIMIT)
    assert (first.death.status, first.death.error_type) == ("out_of_memory", "MemoryError")
    assert second.value == 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a memory limit needs Linux")
@pytest.mark.slow
def test_the_allocator_of_torch_running_out_is_out_of_memory():
    ended = call("take_tensors_without_end", preload=isolate.HEAVY, memory_limit=LIMIT, threads=1)
    assert (ended.death.status, ended.death.error_type) == ("out_of_memory", "RuntimeError")
    assert "DefaultCPUAllocator" in ended.death.text


@pytest.fixture
def small_cgroup():
    """A cgroup with 300 MiB, as a container has one."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"diag-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            (group / limit).write_text(str(300 * 2**20))
            break
    else:
        pytest.skip("no right to make a cgroup")
    yield group
    with contextlib.suppress(OSError):
        group.rmdir()


def test_a_cell_ended_by_the_kernels_out_of_memory_killer_is_out_of_memory(small_cgroup, tmp_path):
    script = f"""
        import os, pathlib
        pathlib.Path({str(small_cgroup / "cgroup.procs")!r}).write_text(str(os.getpid()))
        from diag.sweep.isolate import Task, run
        names = ["double", "take_memory_without_end", "double", "kill_itself"]
        for e in run([Task(n, "{CELLS}:" + n, 4, 60.0) for n in names], preload=()):
            print(e.key, e.value, e.death and (e.death.status, e.death.error_type))
    """
    done = run_script(script, tmp_path)
    assert done.stdout.splitlines() == [
        "double 8 None",
        "take_memory_without_end None ('out_of_memory', 'SIGKILL')",
        "double 8 None",
        "kill_itself None ('killed', 'SIGKILL')",
    ], done.stderr


@forks
def test_the_death_of_the_supervisor_costs_its_cells_and_no_others():
    ended = list(run([task("kill_parent"), task("double", 1), task("double", 2, "again")], preload=()))
    assert ended[0].death.status == "killed"
    assert "The process that starts the cells ended with SIGKILL" in ended[0].death.text
    assert [e.value for e in ended[1:]] == [2, 4]


def test_a_function_of_the_callers_main_is_refused_with_a_way_out():
    (ended,) = run([Task("k", "__main__:mine", None)], preload=())
    assert ended.death.status == "raised"
    assert "name it 'that_file:mine'" in ended.death.text


def test_an_argument_that_can_not_be_sent_costs_only_its_own_task():
    tasks = [Task("bad", f"{CELLS}:double", lambda: 1), task("double", 3)]
    bad, good = run(tasks, preload=())
    assert bad.death.status == "raised"
    assert "argument" in bad.death.text
    assert good.value == 6


def test_a_result_that_the_caller_can_not_read_is_named(tmp_path):
    ended = call("return_something_unknown", str(tmp_path))
    assert (ended.death.status, ended.death.error_type) == ("raised", "ModuleNotFoundError")
    assert "can't be read here" in ended.death.text


def test_large_results_and_arguments_arrive():
    assert len(call("return_many_bytes", 30_000_000).value) == 30_000_000
    assert len(call("double", b"x" * 10_000_000).value) == 20_000_000


# --- output -----------------------------------------------------------------------------------------------------------


def test_everything_a_cell_and_its_processes_write_is_in_its_log():
    log = call("print_all_kinds").log
    assert sorted(log.splitlines()) == ["from a process", "from below \ufffd", "to stderr", "to stdout"]


def test_a_cell_that_prints_without_measure_keeps_its_last_lines():
    ended = call("print_lines", 60_000)
    assert ended.value == 60_000
    assert ended.log.endswith("line 59998\nline 59999\n")
    assert ended.log.startswith("[")
    assert "bytes of output before this are not kept]" in ended.log.splitlines()[0]
    assert len(ended.log) < LOG_LIMIT + 200


def test_of_a_progress_bar_the_death_shows_its_last_state_only():
    text = call("progress_bar_then_death").death.text
    assert "loading 100%" in text
    assert "loading 90%" not in text


def test_nothing_can_wait_for_an_answer_on_stdin():
    assert call("read_stdin").value == ("", b"")


# --- order, cancelling, interrupting ----------------------------------------------------------------------------------


def test_results_come_as_they_end():
    tasks = [task("pause", 3.0, "slow"), task("pause", 0.0, "quick"), task("pause", 0.01, "next")]
    assert [e.key for e in run(tasks, workers=2, preload=())] == ["quick", "next", "slow"]


def test_tasks_are_taken_only_when_there_is_room():
    taken = []

    def tasks():
        for number in range(5):
            taken.append(number)
            yield task("double", number, str(number))

    running = run(tasks(), workers=2, preload=())
    assert taken == []
    next(running)
    assert taken == [0, 1, 2]
    assert [e.value for e in running] != []
    assert taken == [0, 1, 2, 3, 4]


def test_no_tasks_start_no_process():
    before = psutil.Process().children()
    assert list(run([], preload=("a preload that nobody else uses",))) == []
    assert psutil.Process().children() == before


@pytest.mark.parametrize("how", [{"workers": 0}, {"threads": 0}, {"memory_limit": -1}], ids=str)
def test_numbers_that_run_nothing_are_refused_at_once(how):
    with pytest.raises(DiagError, match=f"{next(iter(how))}=.* runs nothing"):
        run([], **how)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_task_without_time_is_refused(timeout):
    with pytest.raises(DiagError, match="timeout="):
        task("double", 1, timeout=timeout)


def test_endless_time_is_no_limit():
    assert call("double", 2, timeout=float("inf")).value == 4


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_cancelling_stops_what_runs_and_names_what_never_began(tmp_path, monkeypatch, method):
    if method == "spawn":
        monkeypatch.setattr(posix, "start_method", lambda: "spawn")
    stop, note = threading.Event(), str(tmp_path / "pids")
    tasks = [task("double", 1), task("note_and_hang", note), task("double", 2, "late"), task("double", 3, "later")]
    running = run(tasks, preload=(), cancelled=stop.is_set)
    assert next(running).value == 2
    pid = int(wait_for(note).split()[0])
    stop.set()
    rest = list(running)
    assert [(e.key, e.death.status, e.death.text) for e in rest] == [
        ("note_and_hang", "not_run", "Cancelled while it ran; it was stopped."),
        ("late", "not_run", "Cancelled before it began."),
        ("later", "not_run", "Cancelled before it began."),
    ]
    assert gone(pid)


def test_cancelled_from_the_start_runs_nothing():
    ended = list(run([task("double", 1)], preload=(), cancelled=lambda: True))
    assert [(e.death.status, e.value) for e in ended] == [("not_run", None)]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_closing_the_iterator_ends_what_runs(tmp_path, monkeypatch, method):
    if method == "spawn":
        monkeypatch.setattr(posix, "start_method", lambda: "spawn")
    note = str(tmp_path / "pids")
    running = run([task("double", 1), task("note_and_hang", note)], preload=())
    assert next(running).value == 2
    pid = int(wait_for(note).split()[0])
    running.close()
    assert gone(pid)


def test_two_runs_at_once_keep_to_themselves():
    results = {}

    def one(start):
        tasks = [task("double", n, str(n), 60.0) for n in range(start, start + 10)]
        results[start] = sorted(e.value for e in run(tasks, workers=2, preload=()))

    threads = [threading.Thread(target=one, args=(start,)) for start in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {start: [2 * n for n in range(start, start + 10)] for start in (0, 100)}


def test_a_process_that_never_stops_writing_does_not_hold_up_the_run():
    ended = call("leave_a_writer_behind")
    assert ended.value == "left"
    assert ended.log.startswith("[")


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
    assert call("loaded", ["json.tool", "fails_at_import"], preload=preload).value == {
        "json.tool": True,
        "fails_at_import": False,
    }
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
    state, modules = run(
        [task("torch_state"), task("loaded", ("torch", "transformers.modeling_utils", "pandas", "bitsandbytes"))],
        threads=1,
    )
    assert state.value == {"threads": 1, "cuda": False, "fork is safe": True, "variable": "1", "sum": 27_000_000.0}
    assert modules.value == {
        "torch": True,
        "transformers.modeling_utils": True,
        "pandas": True,
        "bitsandbytes": False,
    }


@pytest.mark.gpu
@forks
def test_a_cell_can_use_the_gpu_after_the_preload():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    assert call("gpu_sum", preload=isolate.HEAVY).value == 9.0


# --- callers of every kind --------------------------------------------------------------------------------------------


def run_script(code, folder, *how, **options):
    """Run code the way a user does, from a folder of its own."""
    script = Path(folder) / "script.py"
    script.write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": HERE}
    command = [sys.executable, *(how or [str(script)])]
    with open(script) as stdin:
        return subprocess.run(
            command, cwd=folder, env=environment, stdin=stdin, capture_output=True, text=True, timeout=120, **options
        )


SCRIPT = f"""
import multiprocessing
with open("times run", "a") as note:
    note.write("x")
from diag.sweep.isolate import Task, run
print([e.value for e in run([Task("a", "{CELLS}:double", 1), Task("b", "{CELLS}:double", 2)], preload=())])
print(multiprocessing.active_children(), multiprocessing.get_start_method(allow_none=True))
"""
EXPECTED = ["[2, 4]", "[] None"]


def test_a_script_without_a_main_guard_works_and_runs_once(tmp_path):
    done = run_script(SCRIPT, tmp_path)
    assert done.stdout.splitlines() == EXPECTED, done.stderr
    assert (tmp_path / "times run").read_text() == "x"


def test_a_script_on_standard_input_works(tmp_path):
    done = run_script(SCRIPT, tmp_path, "-")
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

    monkeypatch.setenv("PYTHONPATH", HERE)
    note = str(tmp_path / "pids")
    tasks = f'[Task("a", "{CELLS}:double", 1), Task("b", "{CELLS}:note_and_hang", {note!r})]'
    cells = [
        "from diag.sweep.isolate import Task, run\nkept = []",
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
from diag.sweep.isolate import Task, run
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
        env={**os.environ, "PYTHONPATH": HERE},
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
