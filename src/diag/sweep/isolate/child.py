"""What the process of a cell does between its start and its end: one call, and one reply on a pipe."""

import contextlib
import faulthandler
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from diag.errors import DiagError
from diag.machine import processes as posix
from diag.sweep.isolate.deaths import Death, Reply, death_by
from diag.sweep.isolate.wire import Call, read_frame, write_frame
from diag.values.functions import resolve

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def main() -> None:
    """The whole life of a cell's process where there is no fork: the call comes on stdin, the reply goes to stdout.
    Stdin stays open as long as the caller lives; when it closes, this process ends."""
    orders, replies = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    frame = read_frame(orders)
    if frame is None:
        os._exit(1)

    def end_with_caller() -> None:
        read_frame(orders)
        os._exit(1)

    threading.Thread(target=end_with_caller, daemon=True).start()
    call, folder, began = pickle.loads(frame)
    if call.timeout is not None:  # its time began before this interpreter did
        call = replace(call, timeout=max(0.1, call.timeout - (time.time() - began)))
    os._exit(perform(call, replies, folder))


def perform(call: Call, reply_fd: int, folder: str) -> int:
    """Make the call under its conditions, write the framed `Reply` to `reply_fd`, return the exit code. File
    descriptors 1 and 2 are where output goes already. `folder` becomes the place of temporary files; whoever started
    this process removes it. Exit handlers are not run."""
    _prepare(call, folder)
    try:
        reply = Reply(_function(call.function)(pickle.loads(call.argument)))
    except SystemExit as e:
        return _exit_code(e)
    except BaseException as e:
        posix.lift_memory_limit()
        reply = Reply(death=death_by(e))
    posix.lift_memory_limit()
    faulthandler.cancel_dump_traceback_later()
    write_frame(reply_fd, _pickled(reply))
    _flush()
    return 0


def _prepare(call: Call, folder: str) -> None:
    os.environ.update(call.environ)
    if folder:
        os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder))
        tempfile.tempdir = None
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    posix.be_first_to_go()
    faulthandler.enable(file=2)
    if call.timeout is not None:
        faulthandler.dump_traceback_later(call.timeout, file=2)  # the log then says where it hung
    if call.threads is not None:  # libraries that are loaded later read a variable, a preloaded torch is told
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(call.threads)))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(call.threads)
    if call.memory_limit is not None:
        posix.limit_memory(call.memory_limit)


def _function(name: str) -> Callable[[object], object]:
    module, _, path = name.partition(":")
    if module == "__main__":
        what = f"{name!r} can't be called in a process of its own."
        why = "that process never runs your script or notebook, so nothing that is defined there exists in it."
        hint = f"put the function into a file of its own and name it 'that_file:{path}'."
        raise DiagError(what, why=why, next_step=hint)
    return resolve(name)


def _pickled(reply: Reply) -> bytes:
    try:
        return pickle.dumps(reply, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as e:
        kind = type(reply.value).__name__
        text = f"The function returned a {kind} that can't be sent to the caller: {type(e).__name__}: {e}"
        return pickle.dumps(Reply(death=Death(death_by(e).status, type(e).__name__, text)))


def _exit_code(error: SystemExit) -> int:
    """What `sys.exit(…)` would have given: a number, 0 for None, 1 and a line on stderr for anything else."""
    if not (error.code is None or isinstance(error.code, int)):
        print(error.code, file=sys.stderr)
    _flush()
    return error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
