"""The caller's side of starting cells: a supervisor that forks them, or a fresh interpreter for each.

Both take `Call`s, put a `ProcessEnd` for each on a queue, and end everything they started when they are closed.
A supervisor is kept for the next run while the caller's surroundings (environment, folder, `sys.path`, installed
packages) stay as they were, and for five minutes at most.
"""

import atexit
import contextlib
import glob
import json
import os
import pickle
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import IO

from diag.errors import DiagError
from diag.machine import processes as posix
from diag.sweep.isolate import child, supervisor
from diag.sweep.isolate.deaths import ProcessEnd
from diag.sweep.isolate.wire import FOLDER_PREFIX, READY, STACK_SECONDS, Call, Tail, frame_in, read_frame, write_frame

IDLE_SECONDS = 300.0
# Variables that change by themselves, or that an import of torch sets; no library reads them while it is imported.
VOLATILE = frozenset(
    "PYTEST_CURRENT_TEST COLUMNS LINES PWD OLDPWD SHLVL _ TORCHINDUCTOR_CACHE_DIR CUDA_MODULE_LOADING".split()
)
# `sys` is built in, so nothing in the current folder can take its place before the caller's path is in force.
_BOOT = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; import json; "
    "sys.path[:] = json.loads(open(0, 'rb', 0, closefd=False).readline()); "
    "from {module} import main; main()"
)


@dataclass(frozen=True)
class SupervisorEnd:
    """The supervisor ended although nobody closed it; `ready` tells whether it had come to its work."""

    exitcode: int | None
    ready: bool
    log: bytes


Ends = queue.SimpleQueue[ProcessEnd | SupervisorEnd]


class _Interpreter(subprocess.Popen[bytes]):
    """A fresh interpreter that runs `main` of a module of this folder and sees the caller's `sys.path`."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def __init__(self, program: ModuleType) -> None:
        name = program.__name__
        command = [sys.executable, "-c", _BOOT.format(module=name), f"diag-{name.rpartition('.')[2]}"]
        pipe = subprocess.PIPE
        try:
            super().__init__(command, 0, stdin=pipe, stdout=pipe, stderr=pipe, **posix.new_session_arguments())
        except (OSError, ValueError) as e:
            why = f"starting {sys.executable!r} failed: {e}."
            hint = "free some memory or processes, or run from an interpreter that sys.executable names."
            raise DiagError("No process could be started for the cells.", why=why, next_step=hint) from e
        with contextlib.suppress(OSError):
            self.stdin.write(json.dumps(_path()).encode() + b"\n")


class ForkServer:
    """A supervisor process, and the pipes to it. Takes a few seconds to be ready, then milliseconds a call."""

    end_of_idling: threading.Timer

    def __init__(self, preload: Sequence[str]) -> None:
        self.surroundings = surroundings(preload)
        self.ends: Ends = queue.SimpleQueue()
        self._ready, self._log = False, Tail()
        self._process = _Interpreter(supervisor)
        _servers.add(self)
        self._stderr = _in_thread(_drain, self._process.stderr, self._log.add)
        self._receiver = _in_thread(self._receive)
        self.start(tuple(preload))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self, call: Call | tuple[str, ...]) -> None:
        """Make this call, whose `ProcessEnd` comes on `ends`; the names of modules to import are sent before any."""
        with contextlib.suppress(OSError):  # it is gone, and `SupervisorEnd` says so
            write_frame(self._process.stdin.fileno(), pickle.dumps(call))

    def close(self) -> None:
        """End the supervisor and all below it; a call in its first imports is not waited for."""
        self.forget()
        if not self._ready:
            self._process.kill()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._receiver.join(timeout=5)

    def forget(self) -> None:
        """Give up this process's end of the pipe to it, at which a supervisor stops."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _receive(self) -> None:
        pipe = self._process.stdout.fileno()
        while (frame := read_frame(pipe)) is not None:
            if frame == READY:
                self._ready = True
            else:
                self.ends.put(pickle.loads(frame))
        self._stderr.join(timeout=1)
        for folder in glob.glob(os.path.join(tempfile.gettempdir(), f"{FOLDER_PREFIX}{self._process.pid}-*")):
            shutil.rmtree(folder, ignore_errors=True)  # it was killed before it could
        self.ends.put(SupervisorEnd(self._process.wait(), self._ready, bytes(self._log)))


class Spawner:
    """Starts a fresh interpreter for each call: slow, and works everywhere."""

    def __init__(self) -> None:
        self.ends: Ends = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._processes: set[_Interpreter] = set()
        self._watchers: list[threading.Thread] = []

    def start(self, call: Call) -> None:
        self._watchers.append(_in_thread(self._watch, call))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for process in self._processes:
                posix.kill_tree(process.pid)
        for watcher in self._watchers:
            watcher.join(timeout=5)

    def _watch(self, call: Call) -> None:
        folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
        try:
            with self._lock:
                if self._closed:
                    return
                process = _Interpreter(child)
                self._processes.add(process)
            end = _end_of(process, call, folder)
            with self._lock:
                self._processes.discard(process)
                if not self._closed:
                    self.ends.put(end)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _end_of(process: _Interpreter, call: Call, folder: str) -> ProcessEnd:
    """Hand `call` to a fresh interpreter, wait for its end or the end of its time, and tell how it went."""
    began, log, reply = time.monotonic(), Tail(), bytearray()
    readers = [_in_thread(_drain, process.stderr, log.add), _in_thread(_drain, process.stdout, reply.extend)]
    with contextlib.suppress(OSError):
        write_frame(process.stdin.fileno(), pickle.dumps((call, folder, time.time())))
    timed_out = False
    try:
        process.wait(None if call.timeout is None else call.timeout + STACK_SECONDS)
    except subprocess.TimeoutExpired:
        timed_out = True
        posix.kill_tree(process.pid)
    posix.kill_group(process.pid)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    seconds = time.monotonic() - began
    for reader in readers:
        reader.join(timeout=2)  # a process that left the group may hold the pipe open
    return ProcessEnd(call.ident, frame_in(reply), process.returncode, timed_out, False, seconds, bytes(log))


Launcher = ForkServer | Spawner


def take(preload: Sequence[str]) -> Launcher:
    """A launcher of one's own: the idle supervisor if it still fits, else a new one."""
    global _idle
    if posix.start_method() == "spawn":
        return Spawner()
    with _lock:
        server, _idle = _idle, None
    if server is not None:
        server.end_of_idling.cancel()
        if server.alive and server.surroundings == surroundings(preload):
            return server
        server.close()
    return ForkServer(preload)


def give_back(launcher: Launcher) -> None:
    """Keep a supervisor that has nothing to do for the next `take`; close anything else."""
    global _idle
    with _lock:
        if isinstance(launcher, ForkServer) and launcher.alive and _idle is None:
            _idle = launcher
            launcher.end_of_idling = threading.Timer(IDLE_SECONDS, close_idle, args=(launcher,))
            launcher.end_of_idling.daemon = True
            launcher.end_of_idling.start()
            return
    launcher.close()


def close_idle(only: ForkServer | None = None) -> None:
    """End the supervisor that is kept (or `only` that one), and give its memory back."""
    global _idle
    with _lock:
        if _idle is None or only not in (None, _idle):
            return
        server, _idle = _idle, None
    server.end_of_idling.cancel()
    server.close()


def surroundings(preload: Sequence[str]) -> tuple[object, ...]:
    """What a supervisor took over from the caller when it started; when this differs, it no longer fits."""
    environment = {name: value for name, value in os.environ.items() if name not in VOLATILE}
    folder, installed = "", []
    with contextlib.suppress(FileNotFoundError):
        folder = os.getcwd()
    for path in _path():
        if os.path.basename(path) in ("site-packages", "dist-packages") and os.path.exists(path):
            installed.append(os.stat(path).st_mtime_ns)  # when packages were last installed there
    return tuple(preload), environment, folder, _path(), installed


def _path() -> list[str]:
    return [os.fspath(p) for p in sys.path if isinstance(p, str | os.PathLike)]


def _drain(pipe: IO[bytes], take: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(pipe.fileno(), 1 << 20):
            take(data)


def _in_thread(function: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _forget_after_fork() -> None:
    """A fork of the caller must not keep supervisors alive that the caller has ended."""
    global _idle, _lock
    _idle, _lock = None, threading.Lock()
    for server in list(_servers):
        server.forget()


_lock = threading.Lock()
_idle: ForkServer | None = None
_servers: weakref.WeakSet[ForkServer] = weakref.WeakSet()
atexit.register(close_idle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
