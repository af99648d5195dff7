"""Sizes and times in words, and back from what people write. Standard library only."""

import math
import re

from diag.errors import SpecError

_BYTES = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6, "KiB": 2**10, "KB": 10**3, "B": 1}
_BYTES_BY_CAPITALS = {unit.upper(): factor for unit, factor in _BYTES.items()}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\Z")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)\Z")


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN or one of pandas' NA and NaT; pandas is not imported."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def format_size(nbytes: float | None) -> str:
    """Bytes for people: three digits in the binary unit that fits, such as `513 MiB`; empty for a missing value."""
    if nbytes is None or is_missing(nbytes):
        return ""
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 999.5:
            break
        size, unit = size / 1024, larger
    return f"{_three_digits(size)} {unit}"


def format_exact(nbytes: int) -> str:
    """The shortest text, such as `1536MiB` or `1GB`, that `parse_size` reads back as the same number of bytes."""
    unit = next((unit for unit, factor in _BYTES.items() if nbytes and nbytes % factor == 0), "B")
    return f"{nbytes // _BYTES[unit]}{unit}"


def parse_size(value: object, field: str) -> int:
    """Bytes of `'1.5GiB'`, `'20GB'` (decimal) or a whole number. Raises SpecError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.match(value.strip()) if isinstance(value, str) else None
    factor = _BYTES_BY_CAPITALS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        why = "a size is a number with a unit: GiB, MiB, KiB (powers of 1024), GB, MB, KB (powers of 1000), B."
        raise SpecError(f"{field}: {value!r} is not a size.", why=why, next_step="write for example '24GiB'.")
    return round(float(match[1]) * factor)


def format_seconds(seconds: float | None) -> str:
    """A duration for people, such as `0.052 s`, `14 s`, `3 min 20 s` or `2 h 1 min`; empty for a missing value."""
    if seconds is None or is_missing(seconds):
        return ""
    if seconds >= 99.5:
        minutes, rest = divmod(round(seconds), 60)
        parts = ((minutes // 60, "h"), (minutes % 60, "min"), (rest if minutes < 60 else 0, "s"))
        return " ".join(f"{number} {unit}" for number, unit in parts if number)
    if seconds >= 1:
        return f"{_three_digits(seconds)} s"
    return f"{seconds:.2g} s" if seconds >= 0.001 or seconds == 0 else "< 0.001 s"


def parse_seconds(value: object, field: str) -> float:
    """Seconds of a number, or of `90`, `90s`, `30m` or `2h`. Raises SpecError, for zero as well."""
    match = _TIME.match(str(value).strip().lower())
    if match is None or float(match[1]) <= 0:
        why, hint = "a time is a number above zero with s, m or h.", f"write for example {field} 30m"
        raise SpecError(f"{field} {str(value)!r} is not a time.", why=why, next_step=hint)
    return float(match[1]) * _SECONDS[match[2]]


def _three_digits(number: float) -> str:
    decimals = 0 if abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    text = f"{number:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text
