"""The rows of a matrix frame as a reader wants them: named shortly, equal ones together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from diag.views.markup import breakable, escape, tag
from diag.views.wording import THIS_MACHINE, is_missing, map_text

Group = tuple[list[pd.Series], pd.Series]


def combination(row: Any) -> str:
    """`auto · nf4`, with the hardware where it is simulated; for a row or a spec.

    >>> from diag.spec import LoadSpec
    >>> combination(LoadSpec("tiny", "cpu", "int8", "24GiB"))
    'cpu · int8 · simulated 24GiB'
    """
    if isinstance(row, (pd.Series, Mapping)):
        device_map, quantization, hardware = row["device_map"], row["quantization"], row["hardware"]
    else:
        device_map, quantization, hardware = row.device_map_text, row.quantization, row.hardware_text
    machine = "" if hardware == THIS_MACHINE else f" · simulated {hardware}"
    return f"{map_text(device_map)} · {map_text(quantization, 40)}{machine}"


def grouped(frame: pd.DataFrame) -> list[Group]:
    """Rows that share one load together, in order of first appearance, each group with its first row."""
    together: dict[tuple[str, ...], list[pd.Series]] = {}
    for _, row in frame.iterrows():
        source = row["device_map"] if is_missing(row.get("shared_with")) else row["shared_with"]
        key = tuple(map(str, (row["model"], row["quantization"], row["hardware"], source)))
        together.setdefault(key, []).append(row)
    return [(rows, rows[0]) for rows in together.values()]


def plain_label(rows: list[pd.Series]) -> str:
    """The name of a group as text."""
    maps = ", ".join(map_text(row["device_map"]) for row in rows)
    hardware = str(rows[0]["hardware"])
    machine = "" if hardware == THIS_MACHINE else f" · simulated {hardware}"
    return f"{maps} · {map_text(rows[0]['quantization'], 40)}{machine}"


def label(rows: list[pd.Series]) -> str:
    """The name of a group as HTML: its maps, its quantization, and a badge where it was simulated."""
    maps = ", ".join(map_text(row["device_map"]) for row in rows)
    return f"{breakable(maps)} · {breakable(map_text(rows[0]['quantization'], 40))}{badge(rows[0]['hardware'])}"


def badge(hardware: Any) -> str:
    """The mark of a simulated row; nothing for this machine."""
    return "" if hardware == THIS_MACHINE else " " + tag("span", f"simulated {escape(hardware)}", class_="simulated")
