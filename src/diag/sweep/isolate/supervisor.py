"""The program that forks the cells: one fresh, single-threaded interpreter with the heavy modules already imported.

It is started by `launch.ForkServer`, reads `Call`s from stdin, and writes a `ProcessEnd` for each to stdout. Because
it is a program of its own, a cell never imports the caller's `__main__`, and the caller may be a script, a notebook or
stdin. When stdin closes, the caller has ended, in whatever way: it kills what runs and ends too.
POSIX only; `launch.Spawner` takes its place elsewhere.
"""

import contextlib
import gc
import importlib
import os
import pickle
import selectors
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from diag.machine import processes as posix
from diag.machine.memory import oom_kills
from diag.sweep.isolate import child
from diag.sweep.isolate.deaths import ProcessEnd, Reply, death_by
from diag.sweep.isolate.wire import FOLDER_PREFIX, READY, STACK_SECONDS, Call, Tail, frame_in, read_frame, write_frame
from diag.values.exits import death_name

_PIPEFULS = 16  # reads that empty a pipe whose writer has ended; one that still writes must not hold us up
_LONGEST_WAIT = 3600.0
_UNKILLABLE_SECONDS = 10.0  # after SIGKILL; then a process is stuck in the kernel and is given up


@dataclass
class _Running:
    """A process at work; `deadline` is monotonic seconds, `oom_base` the kernel's count of kills when it began."""

    ident: int
    reply_fd: int
    log_fd: int
    folder: str  # of its temporary files; empty for the common place
    deadline: float | None
    oom_base: int
    started: float = field(default_factory=time.monotonic)
    reply: bytearray = field(default_factory=bytearray)
    log: Tail = field(default_factory=Tail)
    timed_out: bool = False

    @property
    def pipes(self) -> dict[int, Callable[[bytes], object]]:
        """What takes the bytes that arrive at each file descriptor."""
        return {self.log_fd: self.log.add, self.reply_fd: self.reply.extend}


def main() -> NoReturn:
    calls, ends = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    frame = read_frame(calls)
    if frame is not None:
        preload(pickle.loads(frame))
        posix.adopt_orphans()
        write_frame(ends, READY)
        Supervisor(calls, ends).serve()
    os._exit(0)


def preload(modules: Sequence[str]) -> None:
    """Import what all cells need. What can't be imported is left to the cells, which say so where it matters.
    PYTORCH_NVML_BASED_CUDA_CHECK keeps an import that asks whether there is a CUDA device from initialising CUDA, which
    a forked process could not use afterwards (PyTorch, "CUDA semantics")."""
    check = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.setdefault(check, "")
    os.environ[check] = "1"
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit):
            traceback.print_exc()
    # Does once what the first load in every cell would repeat: transformers compiles about a thousand patterns for all
    # architectures (75 ms). Where a transformers has no such table, the cells are a little slower.
    if "transformers" in sys.modules:
        with contextlib.suppress(Exception):
            from transformers.conversion_mapping import get_checkpoint_conversion_mapping

            get_checkpoint_conversion_mapping("llama")
    os.environ[check] = before
    if not before:
        del os.environ[check]
    gc.collect()
    gc.freeze()  # the collector then leaves the shared pages alone


class Supervisor:
    """Forks a process per call and watches all of them in one loop, without threads."""

    def __init__(self, calls: int, ends: int) -> None:
        self.calls, self.ends = calls, ends
        self.running: dict[int, _Running] = {}  # by process id
        self.wake_read, self.wake_write = socket.socketpair()
        self.wake_read.setblocking(False)
        self.wake_write.setblocking(False)
        posix.wake_at_child_exit(self.wake_write.fileno())
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.wake_read, selectors.EVENT_READ)
        self.selector.register(calls, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the caller closes its end, or is gone; then nothing is left behind."""
        with contextlib.suppress(BrokenPipeError):
            while self._turn():
                pass
        for pid in self.running:
            posix.kill_group(pid)
        posix.kill_descendants()
        for running in self.running.values():
            shutil.rmtree(running.folder, ignore_errors=True)

    def _turn(self) -> bool:
        """Wait for something to happen and see to it; False once the caller has closed its end."""
        now = time.monotonic()
        patience = min([_LONGEST_WAIT, *(r.deadline - now for r in self.running.values() if r.deadline is not None)])
        ready = {key.fd for key, _ in self.selector.select(max(0.0, patience))}
        frame = read_frame(self.calls) if self.calls in ready else b""
        if frame:
            self._start(pickle.loads(frame))
        for running in self.running.values():
            for fd, take in running.pipes.items():
                if fd in ready:
                    self._drain(fd, take, 1)
        self._reap()
        return frame is not None

    def _start(self, call: Call) -> None:
        reply_read, reply_write = os.pipe()
        log_read, log_write = os.pipe()
        folder = ""
        with contextlib.suppress(OSError):  # a full disk: the cell then uses the common place
            folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
        try:
            pid = posix.fork_apart()
        except OSError as e:  # no memory, or too many processes
            for fd in (reply_read, reply_write, log_read, log_write):
                os.close(fd)
            reply = pickle.dumps(Reply(death=death_by(e)))
            write_frame(self.ends, pickle.dumps(ProcessEnd(call.ident, reply, None, False, False, 0.0, b"")))
            return
        if pid == 0:
            self._be_the_child(call, reply_write, log_write, folder)
        os.close(reply_write)
        os.close(log_write)
        deadline = None if call.timeout is None else time.monotonic() + call.timeout + STACK_SECONDS
        self.running[pid] = _Running(call.ident, reply_read, log_read, folder, deadline, oom_kills() or 0)
        for fd in (reply_read, log_read):
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_READ)

    def _be_the_child(self, call: Call, reply_fd: int, log_fd: int, folder: str) -> NoReturn:
        """The life of a cell. It keeps no end of a pipe that belongs to the caller or to another cell."""
        code = 1
        try:
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            for socket_or_selector in (self.selector, self.wake_read, self.wake_write):
                socket_or_selector.close()
            others = [fd for running in self.running.values() for fd in running.pipes]
            for fd in (self.calls, self.ends, log_fd, *others):
                os.close(fd)
            code = child.perform(call, reply_fd, folder)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

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
        """See to the cells that have ended, and to those whose time is up."""
        with contextlib.suppress(BlockingIOError):
            self.wake_read.recv(4096)
        now = time.monotonic()
        for pid, running in list(self.running.items()):
            exitcode = posix.collect(pid)
            is_late = running.deadline is not None and now >= running.deadline
            if exitcode is not None or (is_late and running.timed_out):
                self._finish(pid, exitcode)
            elif is_late:
                posix.kill_group(pid)
                running.timed_out, running.deadline = True, now + _UNKILLABLE_SECONDS

    def _finish(self, pid: int, exitcode: int | None) -> None:
        """Read what is left, remove everything that the cell leaves behind, and tell the caller."""
        posix.kill_group(pid)
        running = self.running.pop(pid)
        seconds = time.monotonic() - running.started
        for fd, take in running.pipes.items():
            self._drain(fd, take)
            self._forget(fd)
            os.close(fd)
        if not self.running and posix.has_children():
            posix.kill_descendants()  # those that outlived the cell which started them are ours now
        shutil.rmtree(running.folder, ignore_errors=True)
        # The kernel's count of such kills rose while the cell ran; one rise explains one death.
        oom_kill = death_name(exitcode) == "SIGKILL" and not running.timed_out and (oom_kills() or 0) > running.oom_base
        for other in self.running.values():
            other.oom_base += oom_kill
        reply, log = frame_in(running.reply), bytes(running.log)
        end = ProcessEnd(running.ident, reply, exitcode, running.timed_out, oom_kill, seconds, log)
        write_frame(self.ends, pickle.dumps(end))
