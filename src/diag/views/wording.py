"""How values are worded for people: statuses, figures, the names of combinations. Standard library only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from diag.values.units import is_missing


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


def status_word(status: object) -> Word:
    return STATUSES.get(str(status), Word("?", str(status), "a status this version does not know", "warn"))


def cell_text(value: object) -> str:
    """A value as text, nothing for a missing one."""
    return "" if is_missing(value) else str(value)


def number_text(value: object) -> str:
    """A small figure: exactly zero says so, the rest in three significant digits.

    >>> number_text(0.0), number_text(0.4812), number_text(3.1e-6)
    ('0', '0.481', '3.1e-06')
    """
    return f"{value:.3g}" if isinstance(value, Real) and not is_missing(value) else ""


def device_bytes(text: object) -> dict[str, int]:
    """Device to bytes from the JSON text of `peak_device_bytes`; empty for a missing or unreadable one."""
    if isinstance(text, Mapping):
        return dict(text)
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def map_text(device_map: object, limit: int = 60) -> str:
    """A device map for a label: a preset as it is, a long JSON map shortened in the middle."""
    text = cell_text(device_map)
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 3 :]}"
