"""What a matrix will take, before anything is loaded; and which loads to do first where not all can be done. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diag.sweep.cell.measure import Planned
from diag.values.text import count_text
from diag.values.units import format_seconds, format_size

_CALM_SHARE = 0.5  # of the host's memory: above, a person is asked first


@dataclass(frozen=True)
class Price:
    """`rows` asked for: `stored` are known, `refused` end before a weight is read, `shared` ride on another's load.

    `loads` and `twins` are what is left to load; `nbytes` is what all of them read in bytes; `host_bytes` is the most
    that is held in host memory at once, of `free_bytes`; `written` goes to the offload folder at most at once.
    `seconds` is an estimate (None before any load of these was measured); `refusals` are the rules, each once;
    `download` are bytes that are not in the cache yet. `unread` rows could not be planned at all, for the `hindrances`.
    """

    rows: int
    stored: int
    refused: int
    shared: int
    loads: int
    twins: int
    nbytes: int
    host_bytes: int
    free_bytes: int
    written: int
    workers: int
    seconds: float | None = None
    refusals: tuple[str, ...] = ()
    download: int = 0
    unread: int = 0
    hindrances: tuple[str, ...] = ()

    @property
    def is_unknown(self) -> bool:
        """Whether nothing at all could be planned: what the run would take is not known then."""
        return self.unread > 0 and not (self.loads or self.stored)

    @property
    def is_large(self) -> bool:
        """More than half of the host's free memory."""
        return self.free_bytes > 0 and self.host_bytes > _CALM_SHARE * self.free_bytes

    def __str__(self) -> str:
        loads = f"{count_text(self.loads, 'load')} and {count_text(self.twins, 'reference load')}"
        parts = [count_text(self.rows, "row"), loads]
        beside = (
            (self.shared, "share a load"),
            (self.stored, "stored already"),
            (self.refused, "refused beforehand"),
            (self.unread, "could not be planned"),
        )
        parts += [f"{count} {word}" for count, word in beside if count]
        if self.download:
            parts.append(f"{format_size(self.download)} to download")
        if self.loads:
            parts.append(f"{format_size(self.nbytes)} to read")
            parts.append(
                f"at most {format_size(self.host_bytes)} of {format_size(self.free_bytes)} host memory at once"
            )
            written = format_size(self.written) if self.written else "nothing"
            parts.append(f"{written} written to the offload folder")
            parts.append(f"{self.workers} at a time")
            seconds = None if self.seconds is None else max(1, round(self.seconds))
            parts.append(f"about {format_seconds(seconds)}" if seconds else "time is estimated after the first load")
        return "; ".join(parts) + "."


@dataclass(frozen=True)
class Load:
    """One load and the rows it serves; the first plan is the one that is loaded."""

    key: str
    plans: tuple[Planned, ...]

    @property
    def host_bytes(self) -> int:
        """What it holds in host memory, simulated GPUs included: all but what is on a real accelerator or disk."""
        plan = self.plans[0]
        if not plan.placed:
            return plan.nbytes
        return sum(size for device, size in plan.placed.items() if device == "cpu" or device.startswith("simgpu"))


def price(
    loads: Sequence[Load], twins: Mapping[str, int], *, rows: int, stored: int, refusals: Sequence[str], free: int,
    workers: int, seconds: float | None = None, download: int = 0, hindrances: Sequence[str] = (),
) -> Price:  # fmt: skip
    """`twins` maps each reference load to its bytes, `free` host bytes.

    `refusals` holds one text per refused row, `hindrances` one per row that could not be planned.
    """
    served = sum(len(load.plans) for load in loads)
    sizes = sorted([*(load.host_bytes for load in loads), *twins.values()], reverse=True)
    written = sorted((load.plans[0].written for load in loads), reverse=True)
    nbytes = sum(load.plans[0].nbytes for load in loads) + sum(twins.values())
    total = None if seconds is None else seconds * (len(loads) + len(twins)) / max(1, workers)
    return Price(rows, stored, len(refusals), served - len(loads), len(loads), len(twins), nbytes, sum(sizes[:workers]),
                 free, sum(written[:workers]), workers, total, tuple(dict.fromkeys(refusals)), download,
                 len(hindrances), tuple(dict.fromkeys(hindrances)))  # fmt: skip


def most_informative_first(loads: Sequence[Load]) -> list[Load]:
    """Greedy: each next load is the one that shows most that none before it showed.

    A load shows its model, machine, quantization, the places its weights go to, and answers as many rows as share it.
    Ties keep the order given.
    """
    left, ordered = list(loads), list[Load]()
    seen: set[Any] = set()
    while left:
        best = max(left, key=lambda load: (_worth(load, seen), -left.index(load)))
        left.remove(best)
        ordered.append(best)
        seen |= _shows(best)
    return ordered


def _worth(load: Load, seen: set[Any]) -> float:
    new = len(_shows(load) - seen)
    return 2.0 * new + len(load.plans) / (1.0 + len(load.plans))


def _shows(load: Load) -> set[Any]:
    spec, places = load.plans[0].spec, _places(load.plans[0])
    return {
        ("model", spec.model), ("machine", spec.hardware_text), ("quantization", spec.quantization, spec.hardware_text),
        ("places", places, spec.hardware_text), ("places and quantization", places, spec.quantization == "none"),
    }  # fmt: skip


def _places(plan: Planned) -> tuple[str, ...]:
    if plan.resolved_map is None:
        return (f"as {plan.spec.device_map_text}" if plan.spec.loader else "no map",)
    return tuple(sorted({str(device) for device in json.loads(plan.resolved_map).values()}))
