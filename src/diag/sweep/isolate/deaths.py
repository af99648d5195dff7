"""How a child process died: a call that gave no value gets a status and a text, from what was seen of its end."""

import errno
import re
import traceback
from dataclasses import dataclass

from diag.values.exits import death_name
from diag.values.units import format_seconds

_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|could not|failed to) allocate memory|not enough memory|bad_alloc|ALLOC_FAILED"
    r"|memory allocation of \d+ bytes failed",
    re.IGNORECASE,
)
_LINES = 30
_TEXT_LIMIT = 16 * 1024


@dataclass(frozen=True)
class Death:
    """Why there is no value: `status` is killed, timeout, out_of_memory, raised or not_run. `error_type` is `SIGKILL`,
    `SIGSEGV`, `exit 3`, `TimeoutError` or the class of what was raised; `text` is the traceback, or a sentence on what
    happened and the last lines that the cell wrote."""

    status: str
    error_type: str
    text: str


@dataclass(frozen=True)
class Reply:
    """What a cell's process sent before it ended: the function's value, or what the function raised."""

    value: object = None
    death: Death | None = None


@dataclass(frozen=True)
class ProcessEnd:
    """What was seen of the process of one call, and its pickled `Reply` (None: it never sent one). `exitcode` is minus
    the signal's number for a signal, None when the process could not even be killed. `oom_kill` says that the kernel's
    count of processes it ended for lack of memory rose."""

    ident: int
    reply: bytes | None
    exitcode: int | None
    timed_out: bool
    oom_kill: bool
    seconds: float
    log: bytes


def death_of(end: ProcessEnd, reply: Reply | None) -> Death | None:
    """How a call died; None when it gave a value. `reply` is that of `end`, unpickled."""
    if reply is not None:
        return reply.death
    log = end.log.decode(errors="replace")
    name = death_name(end.exitcode)
    if end.timed_out:
        status, name = "timeout", "TimeoutError"
        what = f"No result after {format_seconds(end.seconds)}; it was stopped."
    elif end.oom_kill:
        status = "out_of_memory"
        what = "The kernel ended the process because memory had run out (its count of such kills rose)."
    elif end.exitcode != 0 and _NO_MEMORY.search(log[-2000:]):
        status, what = "out_of_memory", f"The process ended with {name}, for lack of memory."
    else:
        status, what = "killed", f"The process ended with {name} before it gave a result."
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in log.split("\n")]  # of a bar its last state
    last = [line for line in lines if line and not line.startswith("Extension modules:")][-_LINES:]
    said = ["Last output:", *last] if last else []
    return Death(status, name, "\n".join([what if last else f"{what} It had written nothing.", *said]))


def death_by(error: BaseException) -> Death:
    """What the called function raised: its class, the traceback from that function on, and whether memory ran out."""
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    status = "out_of_memory" if is_out_of_memory(error) else "raised"
    return Death(status, type(error).__name__, text[-_TEXT_LIMIT:])


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised from, means that the host or a device had no memory left. True for
    MemoryError, torch.OutOfMemoryError, ENOMEM and the RuntimeErrors of allocators (the CPU's: "DefaultCPUAllocator:
    can't allocate memory"), which only their texts tell from others."""
    for one in chain_of(error):
        classes = {c.__name__ for c in type(one).__mro__}
        if classes & {"MemoryError", "OutOfMemoryError"} or getattr(one, "errno", None) == errno.ENOMEM:
            return True
        if classes & {"RuntimeError", "OSError", "SafetensorError"} and _NO_MEMORY.search(str(one)):
            return True
    return False


def chain_of(error: BaseException | None) -> list[BaseException]:
    """An exception, what it was raised from, and so on. `raise e from e` is a chain without an end, which is cut."""
    chain: list[BaseException] = []
    while error is not None and all(error is not one for one in chain):
        chain.append(error)
        error = error.__cause__
    return chain
