"""One call in a process of its own: however it ends, it is named, its neighbours and the caller go on."""

import contextlib
import os
import sys
import threading
from pathlib import Path

import psutil
import pytest
from isolation_helpers import CELLS, call, forks, gone, run_script, task, wait_for

from diag.errors import DiagError
from diag.machine import processes as posix
from diag.sweep.isolate import pool as isolate
from diag.sweep.isolate.pool import Task, run
from diag.sweep.isolate.wire import LOG_LIMIT

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
        from diag.sweep.isolate.pool import Task, run
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


@pytest.fixture(params=["forkserver", "spawn"])
def _each_method(request, monkeypatch):
    if request.param == "spawn":
        monkeypatch.setattr(posix, "start_method", lambda: "spawn")


@pytest.mark.usefixtures("_each_method")
def test_cancelling_stops_what_runs_and_names_what_never_began(tmp_path):
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


@pytest.mark.usefixtures("_each_method")
def test_closing_the_iterator_ends_what_runs(tmp_path):
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
