"""What a matrix will take before it is run: how many different loads, how large, what is refused, what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diag.errors import DiagError
from diag.spec import LoadSpec
from diag.views.wording import bytes_text, count_text


@dataclass(frozen=True)
class Price:
    """`rows` asked for: `stored` are there already, `refused` end before weights are read, and the rest take `loads`.

    `nbytes` is what these loads read in bytes, `largest` the size of the largest one. `refusals` are the rules.
    """

    rows: int
    stored: int
    refused: int
    loads: int
    nbytes: int
    largest: int
    refusals: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [count_text(self.rows, "row")]
        parts += [f"{self.stored:,} stored already"] if self.stored else []
        parts += [f"{self.refused:,} refused before a weight is read"] if self.refused else []
        if self.loads:
            size = f"{count_text(self.loads, 'different load')} to do, {bytes_text(self.nbytes)} to read"
            parts += [size, f"the largest needs {bytes_text(self.largest)}"]
        return "; ".join(parts) + "."


def price(specs: Sequence[LoadSpec], results: str | None) -> Price:
    """Plans every spec in a process of its own; reads no weights. Specs with the same plan share a load."""
    from diag.sweep.cell import Survey
    from diag.sweep.isolate import Task, run

    stored = stored_rows(specs, results)
    groups: dict[tuple[Any, ...], list[LoadSpec]] = {}
    for spec in specs:
        if spec not in stored:
            groups.setdefault((spec.model, spec.hardware), []).append(spec)
    tasks = [Task(str(i), "diag.sweep.cell:survey", (tuple(g), None), 600.0) for i, g in enumerate(groups.values())]
    plans = [plan for ended in run(tasks) if isinstance(ended.value, Survey) for plan in ended.value.plans]
    refusals = [plan.failure.reason for plan in plans if plan.failure is not None]
    loads = {
        (plan.spec.hardware, plan.spec.quantization, plan.spec.dtype, plan.resolved_map, plan.spec.loader): plan.nbytes
        for plan in plans
        if plan.failure is None
    }
    return Price(len(specs), len(stored), len(refusals), len(loads), sum(loads.values()),
                 max(loads.values(), default=0), tuple(dict.fromkeys(refusals)))  # fmt: skip


def stored_rows(specs: Sequence[LoadSpec], results: str | None) -> Mapping[LoadSpec, dict[str, Any]]:
    """The rows that the results file holds for these specs; none where there is no such file."""
    from diag.sweep.store import Store

    if results is None or not Path(results).is_file():
        return {}
    try:
        with Store(Path(results), must_exist=True) as store:
            rows = store.rows()
            keys = {spec: store.find(spec.to_json()) for spec in specs}
    except DiagError:
        return {}
    return {spec: rows[key] for spec, key in keys.items() if key is not None}
