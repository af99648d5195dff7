"""How values are worded for people: statuses, sizes, times, the names of combinations. Standard library only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """A status as people read it; `tone` is `good`, `bad`, `warn` or `soft`."""

    sign: str
    text: str
    meaning: str
    tone: str


STATUSES = {
    "ok": Word("✓", "works", "loaded, ran twice alike, and gave its reference's answer", "good"),
    "wrong_output": Word("✗", "wrong answer", "ran without an error and gave another answer than its reference", "bad"),
    "unsupported": Word("–", "refused", "the libraries refuse this combination before reading weights", "soft"),
    "load_error": Word("!", "load failed", "an error while loading", "bad"),
    "forward_error": Word("!", "run failed", "loaded, then an error while running", "bad"),
    "out_of_memory": Word("!", "out of memory", "a device or the host ran out of memory", "bad"),
    "killed": Word("!", "killed", "its process died", "bad"),
    "timeout": Word("!", "timed out", "its time was up", "bad"),
    "unchecked": Word("?", "unchecked", "ran, and there was nothing to compare its answer with", "warn"),
    "not_run": Word("…", "not run", "interrupted, cancelled or over budget before it began", "warn"),
}
THIS_MACHINE = "this machine"


def status_word(status: Any) -> Word:
    return STATUSES.get(str(status), Word("?", str(status), "a status this version does not know", "warn"))


def is_missing(value: Any) -> bool:
    """None, NaN and pandas' NA, without importing pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def sentence(value: Any) -> str:
    """A value as text, nothing for a missing one."""
    return "" if is_missing(value) else str(value)


def bytes_text(nbytes: Any) -> str:
    """A size in binary units with three significant digits, nothing for a missing one.

    >>> bytes_text(567_000_000), bytes_text(0), bytes_text(None)
    ('541 MiB', '0 B', '')
    """
    if is_missing(nbytes):
        return ""
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 999.5 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1024
    raise AssertionError("the loop above ends at TiB")


def seconds_text(seconds: Any) -> str:
    """A duration to two significant places, nothing for a missing one.

    >>> seconds_text(0.0521), seconds_text(14.02), seconds_text(200)
    ('0.052 s', '14.0 s', '3 min 20 s')
    """
    if is_missing(seconds):
        return ""
    if seconds >= 99.5:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    if seconds < 0.001:
        return "0 s" if seconds == 0 else "< 0.001 s"
    return f"{seconds:.{max(0, 2 - math.floor(math.log10(seconds)) - (seconds < 1))}f} s"


def number_text(value: Any) -> str:
    """A small figure: exactly zero says so, the rest in three significant digits.

    >>> number_text(0.0), number_text(0.4812), number_text(3.1e-6)
    ('0', '0.481', '3.1e-06')
    """
    return "" if is_missing(value) else f"{float(value):.3g}"


def device_bytes(text: Any) -> dict[str, int]:
    """Device to bytes from the JSON text of `peak_device_bytes`; empty for a missing or unreadable one."""
    if isinstance(text, Mapping):
        return dict(text)
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def map_text(device_map: Any, limit: int = 60) -> str:
    """A device map for a label: a preset as it is, a long JSON map shortened in the middle."""
    text = sentence(device_map)
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 3 :]}"


def count_text(count: int, noun: str) -> str:
    """
    >>> count_text(1, "tensor"), count_text(3, "tensor")
    ('1 tensor', '3 tensors')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def list_text(items: list[str]) -> str:
    """
    >>> list_text(["auto", "cpu", "disk"])
    'auto, cpu and disk'
    """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def _three_digits(size: float) -> str:
    return f"{size:.0f}" if size >= 99.95 else f"{size:.1f}" if size >= 9.995 else f"{size:.2f}"
