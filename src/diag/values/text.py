"""Prose for terminals: lines of at most 100 columns that break between words only. Standard library only."""

from __future__ import annotations

import re
import textwrap

WIDTH = 100
# What is read or copied as one: quoted code, a call, an argument, a size with its unit.
_TOGETHER = re.compile(r"`[^`\n]+`|[\w.]+\([^()\n]*\)|\w+='[^'\n]*'|\d (?:[KMGT]i)?B\b|\d (?:s|min)\b")
_HOLD = "\x00"


def wrapped(text: str, label: str = "", *, indent: int | None = None, width: int = WIDTH) -> str:
    """`label` and `text`, its further lines indented (by default to below the text); names and calls are not broken.

    >>> print(wrapped("Load it again with from_pretrained(path, device_map=None).", "Fix:  ", width=40))
    Fix:  Load it again with
          from_pretrained(path, device_map=None).
    """
    hanging = " " * (len(label) if indent is None else indent)
    held = _TOGETHER.sub(lambda match: match[0].replace(" ", _HOLD), text)
    return "\n".join(_lines(held, label, hanging, width)).replace(_HOLD, " ")


def with_code(text: str, code: str, label: str = "") -> str:
    """Prose, then each line of code whole on a line of its own, ready to be copied."""
    indent = " " * len(label)
    lines = (f"{indent}{line}".rstrip() for line in code.splitlines())
    return "\n".join([wrapped(text, label), *lines])


def _lines(text: str, label: str, hanging: str, width: int) -> list[str]:
    lines: list[str] = []
    for part in text.split("\n"):
        before = hanging if lines else label
        if len(before) + len(part) <= width:
            lines.append(before + part)
        else:
            lines += textwrap.wrap(part, width, initial_indent=before, subsequent_indent=hanging,
                                   break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return lines
