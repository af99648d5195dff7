"""Why a call gave no value, in one word and in words: decided from what was seen, never guessed."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from diag.sweep.isolate.wire import Answer, Report
from diag.values.exits import death_name
from diag.values.units import format_seconds

_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|could not|failed to) allocate memory|not enough memory|bad_alloc|ALLOC_FAILED"
    r"|memory allocation of \d+ bytes failed",
    re.IGNORECASE,
)
_LINES = 30


@dataclass(frozen=True)
class Death:
    """Why there is no value: `status` is killed, timeout, out_of_memory, raised or not_run.

    `error_type` is `SIGKILL`, `SIGSEGV`, `exit 3`, `TimeoutError` or the class of what was raised; `text` is the
    traceback, or what happened in a sentence and the last lines the cell wrote.
    """

    status: str
    error_type: str
    text: str


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised from, means that the host or a device had no memory left.

    True for MemoryError, torch.OutOfMemoryError, ENOMEM and the RuntimeErrors of allocators (the CPU's:
    "DefaultCPUAllocator: can't allocate memory"), which only their texts tell from others.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # `raise e from e` is a chain without an end
        if _says_no_memory(error):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


def _says_no_memory(error: BaseException) -> bool:
    classes = {c.__name__ for c in type(error).__mro__}
    if "MemoryError" in classes or "OutOfMemoryError" in classes or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return bool(classes & {"RuntimeError", "OSError", "SafetensorError"} and _NO_MEMORY.search(str(error)))


def death_of(report: Report, answer: Answer | None) -> Death | None:
    """How the call of `report` died; None when it gave a value."""
    if answer is not None:
        failure = answer.failure
        if failure is None:
            return None
        return Death("out_of_memory" if failure.out_of_memory else "raised", failure.error_type, failure.text)
    log = report.log.decode(errors="replace")
    if report.timed_out:
        return Death(
            "timeout", "TimeoutError", _words(f"No result after {format_seconds(report.seconds)}; it was stopped.", log)
        )
    name = death_name(report.exitcode)
    if report.oom_kill:
        what = "The kernel ended the process because memory had run out (its count of such kills rose)."
        return Death("out_of_memory", name, _words(what, log))
    if report.exitcode != 0 and _NO_MEMORY.search(log[-2000:]):
        return Death("out_of_memory", name, _words(f"The process ended with {name}, for lack of memory.", log))
    return Death("killed", name, _words(f"The process ended with {name} before it gave a result.", log))


def _words(what: str, log: str) -> str:
    """`what`, then the last lines of the log; of a progress bar only its last state."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in log.split("\n")]
    last = [line for line in lines if line and not line.startswith("Extension modules:")][-_LINES:]
    return "\n".join([what, "Last output:", *last]) if last else f"{what} It had written nothing."
