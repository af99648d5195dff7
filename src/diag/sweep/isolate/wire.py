"""What the caller, the supervisor and the processes of the cells say to each other, and how it is framed on a pipe.

Standard library only. Arguments and answers stay pickled bytes on the way: the supervisor never opens them.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from typing import Any

READY = b"ready"  # the supervisor's first frame: everything is imported
FOLDER_PREFIX = "diag-cells-"  # of the folders with the cells' temporary files
LOG_LIMIT = 64 * 1024  # bytes of a cell's output that are kept: the last ones
STACK_SECONDS = 0.25  # between the end of a cell's time and its end: it writes where it hung


@dataclass(frozen=True)
class Call:
    """One call to make in a process of its own; times in seconds, `memory_limit` in bytes above the start."""

    ident: int
    function: str
    argument: bytes
    timeout: float | None
    threads: int | None
    memory_limit: int | None
    environ: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """An exception, as text: it crosses process borders even where its class can't."""

    error_type: str
    text: str
    out_of_memory: bool = False


@dataclass(frozen=True)
class Answer:
    """What the function returned, or how it failed."""

    value: Any = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Report:
    """How one call ended: its pickled `Answer` (None: it never gave one), and what was seen of the process.

    `exitcode` is minus the signal's number for a signal, None when the process could not even be killed.
    """

    ident: int
    answer: bytes | None
    exitcode: int | None
    timed_out: bool
    oom_kill: bool
    seconds: float
    log: bytes


@dataclass
class Tail:
    """The last `LOG_LIMIT` bytes of what was added, and how many were dropped before them."""

    kept: bytearray = field(default_factory=bytearray)
    dropped: int = 0

    def add(self, data: bytes) -> None:
        self.kept += data
        if len(self.kept) > 2 * LOG_LIMIT:
            self._trim()

    def _trim(self) -> None:
        excess = max(0, len(self.kept) - LOG_LIMIT)
        self.dropped += excess
        del self.kept[:excess]

    def __bytes__(self) -> bytes:
        self._trim()
        head = f"[{self.dropped} bytes of output before this are not kept]\n".encode() if self.dropped else b""
        return head + bytes(self.kept)


def write_frame(fd: int, data: bytes) -> None:
    """Write `data` with its length before it. Raises OSError when the other end is gone."""
    view = memoryview(len(data).to_bytes(8, "big") + data)
    while view:
        view = view[os.write(fd, view) :]


def read_frame(fd: int) -> bytes | None:
    """The next frame, or None when the other end closed before it was complete."""
    head = _read_exactly(fd, 8)
    return None if head is None else _read_exactly(fd, int.from_bytes(head, "big"))


def frame_in(data: bytes | bytearray) -> bytes | None:
    """The frame that `data` holds, or None when it is not complete."""
    length = int.from_bytes(data[:8], "big")
    return bytes(data[8 : 8 + length]) if 8 + length <= len(data) and len(data) >= 8 else None


def _read_exactly(fd: int, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        part = os.read(fd, min(count - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def send(fd: int, value: Any) -> None:
    write_frame(fd, pickle.dumps(value))
