"""Exit codes: those of the command line and of a gated report, and what another process's says. Stdlib only."""

import signal
from enum import IntEnum


class Exit(IntEnum):
    """These numbers never change: nightly jobs are written against them."""

    AS_EXPECTED = 0
    WORSE = 1
    WRONG_USAGE = 2
    NOT_JUDGED = 3
    DIED = 4


def death_name(exitcode: int | None) -> str:
    """How a process ended (`exit 3`, `SIGKILL`), from its exit code as `subprocess` gives it, minus for a signal."""
    if exitcode is None:
        return "unknown"
    if exitcode < 0:
        names = {s.value: s.name for s in signal.Signals}
        return names.get(-exitcode, f"signal {-exitcode}")
    return f"exit {exitcode}" if exitcode < 2**16 else f"exit 0x{exitcode:08X}"  # Windows' NTSTATUS codes
