"""What differs between operating systems: start methods, names of deaths, memory counters and limits."""

import mmap
import os
import signal
import subprocess
import sys

import pytest
from interpreter import python

from diag.machine import processes as posix
from diag.machine.memory import oom_kills
from diag.values.exits import death_name

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
MIB = 2**20


NAMES = {0: "exit 0", 3: "exit 3", -9: "SIGKILL", -11: "SIGSEGV", -6: "SIGABRT", None: "unknown"}
NAMES |= {-63: "signal 63", 0xC0000005: "exit 0xC0000005"}


@pytest.mark.parametrize(("exitcode", "name"), NAMES.items())
def test_a_death_is_named_by_its_signal_or_its_exit_code(exitcode, name):
    assert death_name(exitcode) == name


@pytest.mark.parametrize(
    ("platform", "fork", "method"),
    [("linux", True, "forkserver"), ("darwin", True, "spawn"), ("win32", False, "spawn")],
)
def test_cells_are_forked_only_where_that_is_safe(monkeypatch, platform, fork, method):
    monkeypatch.setattr(sys, "platform", platform)
    if not fork:
        monkeypatch.delattr(os, "fork", raising=False)
    assert posix.start_method() == method


WITHOUT_POSIX = """
import os, signal, sys
import psutil, subprocess
sys.modules["resource"] = None
for name in ("fork", "setsid", "killpg", "register_at_fork", "getppid"):
    delattr(os, name)
sys.platform = "win32"
from diag.machine import processes as posix
from diag.sweep.isolate.pool import Task, run
print(posix.start_method(), posix.limit_memory(10), posix.lift_memory_limit(), posix.host_bytes() > 2**20)
tasks = [Task("a", "posixpath:normpath", "a/../b", 60.0), Task("b", "time:sleep", 60.0, 0.5)]
print([(e.value, e.death and e.death.status) for e in run(tasks)])
"""


def test_cells_run_where_there_is_no_posix():
    done = python("-c", WITHOUT_POSIX)
    assert done.stdout.splitlines() == ["spawn False None True", "[('b', None), (None, 'timeout')]"], done.stderr


@linux
def test_the_peak_rises_with_memory_taken_and_starts_anew_when_reset():
    if not posix.reset_peak_host_bytes():
        pytest.skip("this kernel does not let the peak be reset")
    before = posix.peak_host_bytes()
    with mmap.mmap(-1, 64 * MIB) as block:  # new pages; malloc may hand out what earlier tests freed
        block.write(b"x" * (64 * MIB))
    assert posix.peak_host_bytes() - before > 60 * MIB
    assert posix.reset_peak_host_bytes()
    assert posix.peak_host_bytes() - before < 30 * MIB
    assert abs(posix.host_bytes() - posix.peak_host_bytes()) < 10 * MIB


@linux
def test_a_memory_limit_counts_from_what_is_held_and_can_be_lifted():
    code = """
from diag.machine import processes as posix
held = bytearray(200 * 2**20)
assert posix.limit_memory(100 * 2**20)
more = bytearray(60 * 2**20)
try:
    bytearray(100 * 2**20)
except MemoryError:
    print("refused")
posix.lift_memory_limit()
print(len(bytearray(100 * 2**20)) // 2**20)
"""
    assert python("-c", code).stdout.split() == ["refused", "100"]


@linux
def test_files_that_are_only_mapped_do_not_count_against_the_limit(tmp_path):
    (tmp_path / "weights").write_bytes(b"\0" * 50 * MIB)
    code = """
import mmap
from diag.machine import processes as posix
posix.limit_memory(20 * 2**20)
with open("weights", "rb") as file:
    print(sum(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)[:10]))
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.strip() == "0", done.stderr


@linux
def test_the_kernels_count_of_out_of_memory_kills_is_a_number():
    assert isinstance(oom_kills(), int)


needs_groups = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")


@pytest.mark.parametrize(
    ("kill", "session"), [pytest.param("kill_group", False, marks=needs_groups), ("kill_tree", True)]
)
def test_a_group_is_killed_with_what_its_leader_started_and_a_tree_with_sessions_of_their_own(kill, session):
    child = f"subprocess.Popen(['sleep', '600'], start_new_session={session})"
    code = f"import subprocess, time; print({child}.pid, flush=True); time.sleep(600)"
    root = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    root.stdout.readline()
    getattr(posix, kill)(root.pid)
    assert root.wait() == -signal.SIGKILL
    assert root.stdout.read() == ""  # the other process held this pipe open
    getattr(posix, kill)(root.pid)  # what is gone is no error
    root.stdout.close()
