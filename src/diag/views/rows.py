"""The rows of a matrix frame as a reader wants them: named shortly, equal ones together. Pure."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from diag.values.spec import LoadSpec
from diag.values.units import is_missing
from diag.views.wording import THIS_MACHINE, map_text

T = TypeVar("T")
Group = list[pd.Series]  # rows that a view shows in one line


@dataclass(frozen=True)
class Label:
    """The name of combinations that share a line, and `simulated 24GiB` where their hardware is simulated."""

    name: str
    simulated: str = ""

    def __str__(self) -> str:
        return f"{self.name} · {self.simulated}" if self.simulated else self.name


def described(spec: LoadSpec) -> dict[str, str]:
    """What a row says about its spec, from the spec itself."""
    return {"device_map": spec.device_map_text, "quantization": spec.quantization, "hardware": spec.hardware_text}


def label(rows: Sequence[Mapping[str, object]] | Group) -> Label:
    """The label of rows of one quantization and machine, for example `auto, cpu · int8 · simulated 24GiB`."""
    maps = ", ".join(map_text(row["device_map"]) for row in rows)
    return Label(f"{maps} · {map_text(rows[0]['quantization'], 40)}", simulated_text(rows[0]["hardware"]))


def simulated_text(hardware: object) -> str:
    """What marks a simulated row; empty for this machine."""
    return "" if hardware == THIS_MACHINE else f"simulated {hardware}"


def machine_text(hardware: str) -> str:
    return simulated_text(hardware) or hardware


def grouped(frame: pd.DataFrame) -> list[Group]:
    """Rows that share one load together, in order of first appearance."""
    pairs = []
    for _, row in frame.iterrows():
        source = row["device_map"] if is_missing(row.get("shared_with")) else row["shared_with"]
        pairs.append((tuple(map(str, (row["model"], row["quantization"], row["hardware"], source))), row))
    return together(pairs)


def together(pairs: Iterable[tuple[Hashable, T]]) -> list[list[T]]:
    """The items of each key, in the order in which the keys first appear."""
    found: dict[Hashable, list[T]] = {}
    for key, item in pairs:
        found.setdefault(key, []).append(item)
    return list(found.values())
