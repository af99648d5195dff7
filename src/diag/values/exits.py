"""Exit codes of the command line and of a gated report. Standard library only."""

from enum import IntEnum


class Exit(IntEnum):
    """Frozen: nightly jobs are written against these numbers."""

    AS_EXPECTED = 0
    WORSE = 1
    WRONG_USAGE = 2
    NOT_JUDGED = 3
    DIED = 4
