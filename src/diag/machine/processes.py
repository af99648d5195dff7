"""Processes, signals and memory counters: everything that needs POSIX, in one place that imports everywhere.

What is lost without POSIX (on Windows): every cell starts a fresh interpreter (seconds instead of milliseconds), a
memory limit for a cell can't be set, and the kernel does not tell whether a process was ended for lack of memory.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def process_started() -> float:
    """When this process began, in seconds since the epoch."""
    return float(psutil.Process().create_time())


def seconds_left(deadline: float | None, started: float) -> float | None:
    """Seconds that are left of a deadline that counts from `started` (seconds since the epoch); a second at least."""
    return None if deadline is None else max(1.0, deadline - (time.time() - started))


def start_method() -> str:
    """`forkserver` where a preloaded process can be forked safely, else `spawn` (a fresh interpreter per cell). macOS
    has fork, but its system libraries, which torch pulls in, do not survive one."""
    return "forkserver" if hasattr(os, "fork") and sys.platform != "darwin" else "spawn"


def fork_apart() -> int:
    """Fork: 0 in the child, which then leads a session and process group of its own and ends with its parent. No signal
    handling of the parent is left in the child. Only where `start_method` is `forkserver`."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.setsid()  # Ctrl-C does not reach it, and kill_group reaches it and what it starts
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent ended before the kernel was asked
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return pid


def wake_at_child_exit(fd: int) -> None:
    """Have a byte written to `fd`, which must not block, whenever a child of this process ends."""
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is written
    signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def collect(pid: int) -> int | None:
    """The exit code of a child that has ended (minus the signal's number), None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose own parents end (Linux; elsewhere nothing happens)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_group(pid: int) -> None:
    """Kill what is left of the process group that `pid` leads; where there are no groups, nothing happens."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def kill_tree(pid: int) -> None:
    """Kill a process that still runs, its group, and all its descendants, those in sessions of their own included."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        kill_group(pid)
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def kill_descendants() -> None:
    """Kill every process below this one, and wait for them for at most two seconds."""
    below = psutil.Process().children(recursive=True)
    for one in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(below, timeout=2)


def has_children() -> bool:
    """Whether any child of this process still runs; those that have ended are collected."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    except ChildProcessError:
        return False


def be_first_to_go() -> None:
    """Ask the kernel to end this process before others when memory runs out; no core file when it crashes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def limit_memory(nbytes: int) -> bool:
    """Let this process hold at most `nbytes` of private memory more than it holds now.

    Above it, allocations fail (MemoryError, or the RuntimeError of PyTorch's CPU allocator). Files that are only
    mapped for reading, as safetensors does, do not count. False where it can't be set (not Linux).
    Source: RLIMIT_DATA in setrlimit(2), which counts private writable mappings since Linux 4.7.
    """
    held = _status_bytes("VmData")
    if resource is None or held is None:
        return False
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + nbytes
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    return True


def lift_memory_limit() -> None:
    """Undo `limit_memory`, so that a process which ran out can still say so."""
    if resource is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def host_bytes() -> int:
    """Bytes of this process that are in memory now, mapped files included."""
    return _status_bytes("VmRSS") or psutil.Process().memory_info().rss


def reset_peak_host_bytes() -> bool:
    """Start `peak_host_bytes` anew from the present level; False where the kernel keeps the old peak. Source: proc(5),
    /proc/pid/clear_refs, value 5."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def peak_host_bytes() -> int:
    """The most bytes this process had in memory at once since its start or the last reset, mapped files included."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    if resource is not None:
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
    return int(psutil.Process().memory_info().peak_wset)


def _status_bytes(field: str) -> int | None:
    """A figure of /proc/self/status in bytes; None where there is none."""
    if not _LINUX:
        return None
    try:
        with open("/proc/self/status") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
    except OSError:
        return None


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def new_session_arguments() -> dict[str, Any]:
    """Arguments for `subprocess.Popen` that keep a terminal's Ctrl-C away from the new process."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    return {"start_new_session": True}
