"""The program that forks the cells: one fresh, single-threaded interpreter with the heavy modules already imported.

It is started by `launch.ForkServer`, reads `Call`s from stdin, and writes a `Report` for each to stdout. Because it
is a program of its own, a cell never imports the caller's `__main__`, and the caller may be a script, a notebook or
stdin. When stdin closes, the caller has ended, in whatever way: it kills what runs and ends too.
POSIX only; `launch.Spawner` takes its place elsewhere.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import selectors
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from diag.machine import processes as posix
from diag.machine.memory import oom_kills
from diag.sweep.isolate import child
from diag.sweep.isolate.wire import (
    FOLDER_PREFIX,
    READY,
    STACK_SECONDS,
    Answer,
    Call,
    Report,
    Tail,
    frame_in,
    read_frame,
    send,
    write_frame,
)
from diag.values.exits import death_name

_PIPEFULS = 16  # reads that empty a pipe whose writer has ended; one that still writes must not hold us up
_LONGEST_WAIT = 3600.0
_UNKILLABLE_SECONDS = 10.0  # after SIGKILL; then a process is stuck in the kernel and is given up


@dataclass
class _Running:
    """A process at work; `deadline` is monotonic seconds, `oom_base` the kernel's count of kills when it began."""

    ident: int
    pid: int
    answer_fd: int
    log_fd: int
    folder: str | None
    deadline: float | None
    oom_base: int
    started: float = field(default_factory=time.monotonic)
    answer: bytearray = field(default_factory=bytearray)
    log: Tail = field(default_factory=Tail)
    timed_out: bool = False


def main() -> NoReturn:
    calls, reports = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    frame = read_frame(calls)
    if frame is not None:
        preload(pickle.loads(frame))
        posix.adopt_orphans()
        write_frame(reports, READY)
        Supervisor(calls, reports).serve()
    os._exit(0)


def preload(modules: Sequence[str]) -> None:
    """Import what all cells need. What can't be imported is left to the cells, which say so where it matters.

    PYTORCH_NVML_BASED_CUDA_CHECK keeps an import that asks whether there is a CUDA device from initialising CUDA,
    which a forked process could not use afterwards (PyTorch, "CUDA semantics").
    """
    check = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(check)
    os.environ[check] = "1"
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit):
            traceback.print_exc()
    del os.environ[check]
    if before is not None:
        os.environ[check] = before
    gc.collect()
    gc.freeze()  # the collector then leaves the shared pages alone


class Supervisor:
    """Forks a process per call and watches all of them in one loop, without threads."""

    def __init__(self, calls: int, reports: int) -> None:
        self.calls, self.reports = calls, reports
        self.running: dict[int, _Running] = {}
        self.base: str | None = None
        self.wake_read, self.wake_write = socket.socketpair()
        self.wake_read.setblocking(False)
        self.wake_write.setblocking(False)
        posix.wake_at_child_exit(self.wake_write.fileno())
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.wake_read, selectors.EVENT_READ)
        self.selector.register(calls, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the caller closes its end, or is gone."""
        with contextlib.suppress(BrokenPipeError):
            while self._turn():
                pass
        self._stop_all()

    def _turn(self) -> bool:
        """Wait for something to happen and see to it; False once the caller has closed its end."""
        ready = {key.fd for key, _ in self.selector.select(self._patience())}
        frame = read_frame(self.calls) if self.calls in ready else b""
        if frame:
            self._start(pickle.loads(frame))
        self._read_pipes(ready)
        self._reap()
        self._enforce_time()
        return frame is not None

    def _patience(self) -> float | None:
        deadlines = [r.deadline for r in self.running.values() if r.deadline is not None]
        return min(_LONGEST_WAIT, max(0.0, min(deadlines) - time.monotonic())) if deadlines else None

    def _start(self, call: Call) -> None:
        answer_read, answer_write = os.pipe()
        log_read, log_write = os.pipe()
        folder = self._new_folder(call.ident)
        try:
            pid = posix.fork_apart()
        except OSError as e:  # no memory, or too many processes
            for fd in (answer_read, answer_write, log_read, log_write):
                os.close(fd)
            failed = pickle.dumps(Answer(failure=child.describe(e)))
            send(self.reports, Report(call.ident, failed, None, False, False, 0.0, b""))
            return
        if pid == 0:
            self._be_the_child(call, answer_write, log_write, folder)
        os.close(answer_write)
        os.close(log_write)
        deadline = None if call.timeout is None else time.monotonic() + call.timeout + STACK_SECONDS
        self.running[pid] = _Running(call.ident, pid, answer_read, log_read, folder, deadline, oom_kills() or 0)
        for fd in (answer_read, log_read):
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_READ, pid)

    def _be_the_child(self, call: Call, answer_fd: int, log_fd: int, folder: str | None) -> NoReturn:
        code = 1
        try:
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            self._close_in_child(log_fd)
            code = child.perform(call, answer_fd, folder)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def _close_in_child(self, log_fd: int) -> None:
        """A cell keeps no end of a pipe that belongs to the caller or to another cell."""
        self.selector.close()
        self.wake_read.close()
        self.wake_write.close()
        others = [fd for r in self.running.values() for fd in (r.answer_fd, r.log_fd)]
        for fd in (self.calls, self.reports, log_fd, *others):
            os.close(fd)

    def _new_folder(self, ident: int) -> str | None:
        """A place for a cell's temporary files, removed after it however it ended; None when the disk is full."""
        try:
            self.base = self.base or tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
            folder = os.path.join(self.base, str(ident))
            os.mkdir(folder)
            return folder
        except OSError:
            return None

    def _read_pipes(self, ready: set[int]) -> None:
        for running in self.running.values():
            if running.log_fd in ready:
                self._drain(running.log_fd, running.log.add, 1)
            if running.answer_fd in ready:
                self._drain(running.answer_fd, running.answer.extend, 1)

    def _drain(self, fd: int, take: Callable[[bytes], object], reads: int = _PIPEFULS) -> None:
        """Pass on what is in the pipe now; a pipe that was closed is no longer waited for."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(reads):
                data = os.read(fd, 1 << 20)
                if not data:
                    self._forget(fd)
                    return
                take(data)

    def _forget(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self.selector.unregister(fd)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.wake_read.recv(4096)
        for running in list(self.running.values()):
            exitcode = posix.collect(running.pid)
            if exitcode is not None:
                self._finish(running, exitcode)

    def _enforce_time(self) -> None:
        now = time.monotonic()
        for running in list(self.running.values()):
            if running.deadline is None or now < running.deadline:
                continue
            if running.timed_out:
                self._finish(running, None)
                continue
            posix.kill_group(running.pid)
            running.timed_out, running.deadline = True, now + _UNKILLABLE_SECONDS

    def _finish(self, running: _Running, exitcode: int | None) -> None:
        """Read what is left, remove everything the cell leaves behind, and report."""
        seconds = time.monotonic() - running.started
        posix.kill_group(running.pid)
        del self.running[running.pid]
        for fd, take in ((running.log_fd, running.log.add), (running.answer_fd, running.answer.extend)):
            self._drain(fd, take)
            self._forget(fd)
            os.close(fd)
        if not self.running:
            self._end_orphans()
        if running.folder is not None:
            shutil.rmtree(running.folder, ignore_errors=True)
        answer = frame_in(running.answer)
        oom_kill = self._was_oom_kill(running, exitcode)
        log = bytes(running.log)
        send(self.reports, Report(running.ident, answer, exitcode, running.timed_out, oom_kill, seconds, log))

    def _was_oom_kill(self, running: _Running, exitcode: int | None) -> bool:
        """Whether the kernel's count rose while the cell ran; one rise explains one death."""
        sigkill = death_name(exitcode) == "SIGKILL"
        if not sigkill or running.timed_out or (oom_kills() or 0) <= running.oom_base:
            return False
        for other in self.running.values():
            other.oom_base += 1
        return True

    def _end_orphans(self) -> None:
        """Processes that outlived the cell which started them are ours now: while no cell runs, they can go."""
        if posix.has_children():
            posix.kill_descendants()

    def _stop_all(self) -> None:
        for running in self.running.values():
            posix.kill_group(running.pid)
        posix.kill_descendants()
        if self.base is not None:
            shutil.rmtree(self.base, ignore_errors=True)
