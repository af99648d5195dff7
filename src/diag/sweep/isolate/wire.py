"""What the caller, the supervisor and the cells' processes send each other, and how it is framed on a pipe.

Standard library only. Arguments and replies stay pickled on the way: the supervisor never opens them.
"""

import os
from dataclasses import dataclass, field

READY = b"ready"  # the supervisor's first frame: everything is imported
FOLDER_PREFIX = "diag-cells-"  # of the folders with the cells' temporary files
LOG_LIMIT = 64 * 1024  # bytes of a cell's output that are kept: the last ones
STACK_SECONDS = 0.25  # from the end of a cell's time until it is killed: it writes where it hung


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
