"""Reads what people and job runners hand over as text: lists, machines, times, numbers. Standard library only."""

from __future__ import annotations

import ast
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from diag.errors import SpecError
from diag.values.hardware import Hardware, parse_size

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|)\Z")
_LISTS = "'auto,disk' or '[\"auto\", \"disk\"]'."
_TRUTHS = {"none": None, "true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def several(value: Any, name: str = "the list") -> list[Any]:
    """A list, or text that means one: JSON, Python, commas or blanks; a JSON object is one device map.

    Raises SpecError for a number, a truth value and whatever else is no list.

    >>> several("auto, disk"), several('["auto", {"": 0}]'), several("[auto,disk]"), several(["cpu"]), several(None)
    (['auto', 'disk'], ['auto', {'': 0}], ['auto', 'disk'], ['cpu'], [])
    """
    if value is None or isinstance(value, Mapping):
        return [] if value is None else [value]
    if not isinstance(value, str):
        if not isinstance(value, Iterable):
            raise _wrong(name, value, "a list, or text that means one, is needed.", f"write for example {_LISTS}")
        return list(value)
    text = value.strip()
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, TypeError):
            continue
        if isinstance(found, (list, tuple)):
            return list(found)
        if isinstance(found, dict):
            return [found]
    if "{" in text:
        return [text]
    return [part for part in re.split(r"[,\s]+", text.strip("[] ,")) if part]


def some(value: Any, name: str) -> list[Any]:
    """As `several`, with at least one item: none is no combination. Raises SpecError."""
    found = several(none(value), name)
    if not found:
        raise _wrong(name, value, "it asks for no combination.", f"leave it out for the default, or write {_LISTS}")
    return found


def machines(value: Any) -> list[Any]:
    """Hardware as a list, or text of one or several machines, whose own sizes may hold commas.

    >>> machines("24GiB,80GiB+64GiB"), machines("this machine, 2x300MiB+8GiB"), machines(["this machine"])
    (['24GiB,80GiB+64GiB'], ['this machine', '2x300MiB+8GiB'], ['this machine'])
    """
    if not isinstance(value, str) or value.strip().startswith(("[", "(")):
        return several(value, "hardware")
    try:
        Hardware.parse(value.strip())
    except SpecError:
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value.strip()]


def seconds(value: Any, name: str) -> float | None:
    """Seconds of a number, or of `90`, `90s`, `30m` or `2h`; None for nothing. Raises SpecError."""
    value = none(value)
    if value is None:
        return None
    match = _TIME.match(str(value).strip().lower())
    if match is None or float(match[1]) <= 0:
        raise SpecError(f"{name} {str(value)!r} is not a time.", why="a time is a number above zero with s, m or h.",
                        next_step="write for example 30m")  # fmt: skip
    return float(match[1]) * _UNITS[match[2]]


def left_of(deadline: float | None, started: float) -> float | None:
    """Seconds that are left of a deadline that counts from `started` (seconds since the epoch); a second at least."""
    return None if deadline is None else max(1.0, deadline - (time.time() - started))


def process_started() -> float:
    """When this process began, in seconds since the epoch."""
    import psutil

    return psutil.Process().create_time()


def whole(value: Any, name: str) -> int | None:
    """A whole number above zero, or None. Raises SpecError."""
    value = none(value)
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError) as e:
        raise SpecError(f"{name}={value!r} is not a whole number.", next_step=f"write for example {name} 12") from e
    if isinstance(value, bool) or (not isinstance(value, str) and number != value):
        raise SpecError(f"{name}={value!r} is not a whole number.", next_step=f"write for example {name} 12")
    if number < 1:
        raise SpecError(f"{name}={value!r} runs nothing.", next_step="give 1 or more.")
    return number


def truth(value: Any, name: str) -> bool | None:
    """True or false, also as text, or None. Raises SpecError: "no" must not count as yes for being a text.

    >>> truth("no", "yes"), truth(True, "yes"), truth("1", "yes"), truth(None, "yes")
    (False, True, True, None)
    """
    word = str(none(value)).strip().lower()
    if word not in _TRUTHS:
        raise _wrong(name, value, "it is neither true nor false.", "write true or false.")
    return _TRUTHS[word]


def file_name(value: Any, name: str) -> str | None:
    """The path of a file, or None. Raises SpecError for what names none."""
    value = none(value)
    if value is None or isinstance(value, (str, os.PathLike)):
        return None if value is None else os.fspath(value)
    raise _wrong(name, value, "a file's name is needed.", "write it as text, such as './name'.")


def size(value: Any, name: str) -> int | None:
    """Bytes of a number or of `2GiB`, or None. Raises SpecError."""
    value = none(value)
    return None if value is None else parse_size(value, name)


def _wrong(name: str, value: Any, why: str, next_step: str) -> SpecError:
    return SpecError(f"{name}={value!r} is not valid.", why=why, next_step=next_step)


def none(value: Any) -> Any:
    """None for nothing and for the texts that mean it; any other value as it is."""
    return None if value is None or (isinstance(value, str) and value.strip() in ("", "None", "null")) else value
