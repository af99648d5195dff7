"""A long log is read around what it says of failures and devices, not as a whole. Standard library only."""

import re
from collections.abc import Iterator

_LONG = 1_000_000  # characters that are read as a whole
_BEFORE, _AFTER = 20_000, 8_000
_LINE = 2_000  # a longer line is cut
_FAILURES = re.compile(
    r"Traceback \(|\w(?:Error|Exception)\b|meta tensor|device meta|out of memory|OOM|Killed process|exit code"
)
_CONTEXT = re.compile(
    r"because they were offloaded|device_map|bitsandbytes|newly initialized|[Dd]eep[Ss]peed|offload_folder"
)
_BLOB = re.compile(r"[\w+/=-]{1000,}")


def near_failures(text: str) -> str:
    """The whole text, or of a long one the lines around its last failures and the first lines that set the scene.

    An encoded image or archive in it is cut to its first characters.

    >>> near_failures("RuntimeError: CUDA out of memory.")
    'RuntimeError: CUDA out of memory.'
    """
    if len(text) <= _LONG:
        return _BLOB.sub(lambda found: f"{found[0][:40]}…", text)
    failures = [found.start() for found in _FAILURES.finditer(text)] or [len(text)]
    spans = [(at - _BEFORE, at + _AFTER) for at in _last(failures)]
    spans += [(found.start() - 200, found.end() + 400) for found, _ in zip(_CONTEXT.finditer(text), range(50))]
    return near_failures("\n".join(text[start:end] for start, end in _joined(spans, text))[-_LONG:])


def _last(places: list[int]) -> Iterator[int]:
    """From the end, so many places as fit into a text that is read as a whole."""
    room, before = _LONG, None
    for at in reversed(places):
        room -= _BEFORE + _AFTER if before is None else min(before - at, _BEFORE + _AFTER)
        if room < 0 and before is not None:
            return
        before = at
        yield at


def _joined(spans: list[tuple[int, int]], text: str) -> Iterator[tuple[int, int]]:
    """Spans in order, widened to whole lines; those that overlap are one."""
    start = end = -1
    for low, high in sorted(spans):
        low, high = max(low, 0), min(high, len(text))
        low = max(text.rfind("\n", 0, low) + 1, low - _LINE)
        newline = text.find("\n", high, high + _LINE)
        high = newline if newline >= 0 else min(high + _LINE, len(text))
        if low > end and end >= 0:
            yield start, end
            start = low
        start = low if start < 0 else start
        end = max(end, high)
    if end >= 0:
        yield start, end
