"""From plans to loads: which specs share one, how many run at once, and what all of it will take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from diag.sweep import keys
from diag.sweep.cell.measure import Planned
from diag.sweep.pricing import Load, Price, price
from diag.sweep.state import Sweep


def loads_to_do(sweep: Sweep) -> list[Load]:
    """The different loads of the rows that are not known yet, in the order given."""
    groups: dict[str, list[Planned]] = {}
    for spec in sweep.specs:
        plan = sweep.plans.get(spec)
        if spec not in sweep.rows and plan is not None and plan.failure is None:
            groups.setdefault(sweep.load_key(plan), []).append(plan)
    return [Load(key, tuple(plans)) for key, plans in groups.items()]


def choose_workers(sweep: Sweep, loads: list[Load]) -> None:
    """How many cells run at once, and with how many threads each."""
    sweep.workers = sweep.options.workers or _workers(sweep, loads)
    sweep.threads = max(1, (os.cpu_count() or 1) // sweep.workers)


def price_of(sweep: Sweep, loads: list[Load]) -> Price:
    if loads:
        choose_workers(sweep, loads)
    failures = [plan.failure for plan in sweep.plans.values() if plan.failure is not None]
    known = ("unsupported", "out_of_memory")
    stored = sum(sweep.plans[spec].failure is None for spec in sweep.rows if spec in sweep.plans)
    return price(
        loads,
        _twins(sweep, loads),
        rows=len(sweep.specs),
        stored=stored,
        refusals=[failure.reason for failure in failures if failure.status in known],
        hindrances=[failure.reason for failure in failures if failure.status not in known],
        free=(sweep.free or {}).get("cpu", 0),
        workers=sweep.workers,
        seconds=_seconds_measured_before(sweep),
        download=sweep.to_download,
    )


def _workers(sweep: Sweep, loads: list[Load]) -> int:
    real = any(not spec.simulated for spec in sweep.specs)
    if real and any(name != "cpu" for name in sweep.machine):
        return 1
    room = (sweep.free or {}).get("cpu", 0)
    largest = max((load.plans[0].nbytes for load in loads), default=0)
    fitting = room // (3 * largest) if largest else 4  # a load holds the file's pages, the model and a copy in flight
    return int(max(1, min(os.cpu_count() or 1, 4, fitting)))


def _twins(sweep: Sweep, loads: list[Load]) -> Mapping[str, int]:
    """The reference loads that are still to be done, with their bytes."""
    found: dict[str, int] = {}
    for load in loads:
        plan = load.plans[0]
        needed: Any = keys.needed_references(plan, plan.packed, sweep.threads) or {}
        found.update({key: plan.nbytes for key in needed if sweep.store.reference(key) is None})
    return found


def _seconds_measured_before(sweep: Sweep) -> float | None:
    """Seconds that the whole process of a load of these models took, by this file; None where none is known."""
    if sweep.seconds_measured:
        return sweep.seconds_per_load
    models = {spec.model for spec in sweep.specs}
    rows = [row for row in sweep.store.rows().values() if row["model"] in models and not row.get("shared_with")]
    times = [row["cell_seconds"] for row in rows if row.get("cell_seconds") and row.get("load_seconds")]
    return sum(times) / len(times) if times else None
