"""What a matrix will take, before anything is loaded; and which loads to do first where not all can be done. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from diag.sweep import keys
from diag.sweep.planning import Load
from diag.sweep.state import Sweep
from diag.values.text import count_text
from diag.values.units import format_seconds, format_size

_CALM_SHARE = 0.5  # of the host's memory: above, a person is asked first
_REFUSALS = ("unsupported", "out_of_memory")


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
        counts = (self.shared, self.stored, self.refused, self.unread)
        words = ("share a load", "stored already", "refused beforehand", "could not be planned")
        beside = [f"{count} {word}" for count, word in zip(counts, words) if count]
        parts = [count_text(self.rows, "row"), loads, *beside]
        if self.download:
            parts.append(f"{format_size(self.download)} to download")
        if self.loads:
            seconds = None if self.seconds is None else max(1, round(self.seconds))
            parts += [
                f"{format_size(self.nbytes)} to read",
                f"at most {format_size(self.host_bytes)} of {format_size(self.free_bytes)} host memory at once",
                f"{format_size(self.written) if self.written else 'nothing'} written to the offload folder",
                f"{self.workers} at a time",
                f"about {format_seconds(seconds)}" if seconds else "time is estimated after the first load",
            ]
        return "; ".join(parts) + "."


def price_of(sweep: Sweep, loads: Sequence[Load]) -> Price:
    """What these loads will take, beside the rows of `sweep` that are known already."""
    workers, plans = sweep.workers, [load.plans[0] for load in loads]
    needed = {key: plan.nbytes for plan in plans for key in keys.needed_references(plan, plan.packed, sweep.threads)}
    twins = {key: nbytes for key, nbytes in needed.items() if sweep.store.reference(key) is None}
    models = {spec.model for spec in sweep.specs}  # of which the file may know how long the process of a load took
    rows = [row for row in sweep.store.rows().values() if row["model"] in models and not row.get("shared_with")]
    times = [row["cell_seconds"] for row in rows if row.get("cell_seconds") and row.get("load_seconds")]
    held = sorted([*(load.host_bytes for load in loads), *twins.values()], reverse=True)
    written = sorted((plan.written for plan in plans), reverse=True)
    failures = [plan.failure for plan in sweep.plans.values() if plan.failure is not None]
    refusals = [failure.reason for failure in failures if failure.status in _REFUSALS]
    hindrances = [failure.reason for failure in failures if failure.status not in _REFUSALS]
    return Price(
        rows=len(sweep.specs),
        stored=sum(sweep.plans[spec].failure is None for spec in sweep.rows if spec in sweep.plans),
        refused=len(refusals),
        shared=sum(len(load.plans) for load in loads) - len(loads),
        loads=len(loads),
        twins=len(twins),
        nbytes=sum(plan.nbytes for plan in plans) + sum(twins.values()),
        host_bytes=sum(held[:workers]),
        free_bytes=(sweep.free or {}).get("cpu", 0),
        written=sum(written[:workers]),
        workers=workers,
        seconds=sum(times) / len(times) * (len(loads) + len(twins)) / workers if times else None,
        refusals=tuple(dict.fromkeys(refusals)),
        download=sweep.to_download,
        unread=len(hindrances),
        hindrances=tuple(dict.fromkeys(hindrances)),
    )


def most_informative_first(loads: Sequence[Load]) -> list[Load]:
    """Greedy: each next load is the one that shows most that none before it showed. A load shows its model, machine,
    quantization, the places its weights go to, and answers as many rows as share it. Ties keep the order given."""
    left, ordered = list(loads), list[Load]()
    seen: set[tuple[object, ...]] = set()

    def worth(load: Load) -> float:
        return 2.0 * len(_shows(load) - seen) + len(load.plans) / (1.0 + len(load.plans))

    while left:
        best = max(left, key=worth)  # the first of equals
        left.remove(best)
        ordered.append(best)
        seen |= _shows(best)
    return ordered


def _shows(load: Load) -> set[tuple[object, ...]]:
    plan, spec = load.plans[0], load.plans[0].spec
    places = f"as {spec.device_map_text}" if spec.loader else "no map"
    if plan.resolved_map is not None:
        places = ", ".join(sorted({str(device) for device in json.loads(plan.resolved_map).values()}))
    return {
        ("model", spec.model),
        ("machine", spec.hardware_text),
        ("quantization", spec.quantization, spec.hardware_text),
        ("places", places, spec.hardware_text),
        ("places and quantization", places, spec.quantization == "none"),
    }
