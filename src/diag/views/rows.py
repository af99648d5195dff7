"""The rows of a matrix frame as a reader wants them: named shortly, equal ones together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from diag.values.spec import LoadSpec
from diag.values.units import is_missing
from diag.views.markup import breakable, escape, tag
from diag.views.wording import THIS_MACHINE, map_text

Group = tuple[list[pd.Series], pd.Series]


def described(spec: LoadSpec) -> dict[str, str]:
    """What a row says about its spec, from the spec itself."""
    return {"device_map": spec.device_map_text, "quantization": spec.quantization, "hardware": spec.hardware_text}


def grouped(frame: pd.DataFrame) -> list[Group]:
    """Rows that share one load together, in order of first appearance, each group with its first row."""
    together: dict[tuple[str, ...], list[pd.Series]] = {}
    for _, row in frame.iterrows():
        source = row["device_map"] if is_missing(row.get("shared_with")) else row["shared_with"]
        key = tuple(map(str, (row["model"], row["quantization"], row["hardware"], source)))
        together.setdefault(key, []).append(row)
    return [(rows, rows[0]) for rows in together.values()]


def plain_label(rows: Sequence[Mapping[Any, Any]] | list[pd.Series]) -> str:
    """The name of a group as text: its maps, its quantization, and its hardware where that is simulated.

    >>> from diag.values.spec import LoadSpec
    >>> plain_label([described(LoadSpec("tiny", name, "int8", "24GiB")) for name in ("auto", "cpu")])
    'auto, cpu · int8 · simulated 24GiB'
    """
    hardware = rows[0]["hardware"]
    machine = "" if hardware == THIS_MACHINE else f" · simulated {hardware}"
    return f"{_maps(rows)} · {map_text(rows[0]['quantization'], 40)}{machine}"


def label(rows: Sequence[Mapping[Any, Any]] | list[pd.Series]) -> str:
    """The same as HTML, with a badge for simulated hardware."""
    name = f"{breakable(_maps(rows))} · {breakable(map_text(rows[0]['quantization'], 40))}"
    return name + badge(rows[0]["hardware"])


def _maps(rows: Sequence[Mapping[Any, Any]] | list[pd.Series]) -> str:
    return ", ".join(map_text(row["device_map"]) for row in rows)


def badge(hardware: Any) -> str:
    """The mark of a simulated row; nothing for this machine."""
    return "" if hardware == THIS_MACHINE else " " + tag("span", f"simulated {escape(hardware)}", class_="simulated")
