"""What one call of matrix() knows so far, the two ways a row becomes known, and how its progress is told."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from diag.errors import DiagError
from diag.machine.audience import somebody_watches
from diag.proving.probing import Answer
from diag.sweep import keys
from diag.sweep.cell.records import Free, Planned
from diag.sweep.isolate.pool import Ended
from diag.sweep.results.comparison import row_name
from diag.sweep.results.finality import counted, is_final, may_be_chance, tries_of
from diag.sweep.results.rows import failed_row, shared_row
from diag.sweep.results.store import Row, Store
from diag.values.spec import LoadSpec
from diag.values.units import format_seconds

if TYPE_CHECKING:
    from tqdm import tqdm

_TOO_SHORT = 1.5  # times as long as was said


@dataclass(frozen=True)
class Options:
    """How matrix() was called. Times in seconds, `memory_limit` in bytes for each cell."""

    timeout: float | None = 600.0
    workers: int | None = None
    memory_limit: int | None = None
    budget: float | None = None
    max_loads: int | None = None
    deadline: float | None = None
    retry_failed: bool = False
    fresh: bool = False
    yes: bool = True
    cancelled: Callable[[], bool] | None = None


class Progress:
    """Counts rows: as a bar that tqdm draws where somebody watches, elsewhere as one plain line per finished row."""

    def __init__(self, total: int, shown: bool, on_row: Callable[[Row], None] | None = None) -> None:
        self._total, self.shown, self._on_row = total, shown, on_row
        self._done = 0
        self._start = time.perf_counter()
        self._bar: tqdm | None = None
        if shown and somebody_watches():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit="row")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def row(self, row: Row, from_file: bool = False) -> None:
        """One row is known."""
        self._done += 1
        text = f"{row_name(row)}: {row['status']}"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        else:
            self.say(f"{self._done}/{self._total} {text}{' (stored)' * from_file}")
        if self._on_row is not None:
            self._on_row(row)

    def say(self, text: str) -> None:
        if self.shown and self._bar is not None:
            self._bar.write(text)
        elif self.shown:
            print(f"[{time.perf_counter() - self._start:6.1f} s] {text}", file=sys.stderr, flush=True)


@dataclass
class Sweep:
    """One call of matrix. Rows go to the store as they come."""

    specs: list[LoadSpec]
    store: Store
    options: Options
    progress: Progress
    started: float = field(default_factory=time.monotonic)
    # Known from the plans: what each spec comes to, free memory and devices, hub models' folders.
    plans: dict[LoadSpec, Planned] = field(default_factory=dict)
    free: Free | None = None
    machine: tuple[str, ...] = ()
    pinned: dict[str, str] = field(default_factory=dict)
    to_download: int = 0
    workers: int = 1
    threads: int = 1
    # Known from the cells: rows, loads that wait for a reference, references (or why there is none).
    rows: dict[LoadSpec, Row] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    references: dict[str, Answer | str] = field(default_factory=dict)
    queued: set[str] = field(default_factory=set)
    left_out: dict[LoadSpec, str] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)  # by row key: runs before this one that chance may have ended
    unsaved: str = ""
    # For the estimate of what is left.
    cells: int = 0
    cells_done: int = 0
    cells_began: float = 0.0
    seconds_measured: list[float] = field(default_factory=list)
    seconds_promised: float = 0.0

    def is_over_budget(self) -> bool:
        """Whether a load that takes as long as the average of those so far would end after the budget."""
        times = self.seconds_measured
        end = time.monotonic() - self.started + (sum(times) / len(times) if times else 0.0)
        return self.options.budget is not None and end > self.options.budget

    def begin(self, cells: int) -> None:
        """The first of so many processes, loads and reference loads together, is about to start."""
        self.cells, self.cells_began = cells, time.monotonic()

    def note_seconds(self, ended: Ended) -> None:
        """One more load ended. After the first that gave a result, says how long the rest will take at the pace so
        far, and again when that was far too short: quantized loads are slower than plain ones. By the clock, so that
        starting processes, reference loads, comparing and saving count too.
        """
        if ended.death is not None:  # a process that ended at once tells nothing about the others
            return
        self.seconds_measured.append(ended.seconds)
        left, took = self.cells - self.cells_done, time.monotonic() - self.cells_began
        total = took / max(1, self.cells_done) * self.cells
        if left > 0 and total > _TOO_SHORT * self.seconds_promised:
            self.seconds_promised = total
            so_far = f"{self.cells_done} of {self.cells} loads, reference loads included, took {format_seconds(took)}"
            self.progress.say(f"{so_far}, so the other {left} take about {format_seconds(max(1, round(total - took)))}")

    def is_over(self) -> bool:
        """Whether the caller has cancelled, or the deadline for the whole run has passed."""
        return self.past_deadline or (self.options.cancelled is not None and self.options.cancelled())

    @property
    def past_deadline(self) -> bool:
        return self.options.deadline is not None and time.monotonic() - self.started > self.options.deadline

    def keep(self, plan: Planned, row: Row, table: pd.DataFrame | None = None) -> None:
        """One more row is known: in memory, in the file, and to whoever watches."""
        key = keys.row_key(plan, self.machine)
        row = {**row, "load_key": None if plan.failure is not None else keys.load_key(plan, self.machine)}
        row = self.rows[plan.spec] = counted(row, self.tries.get(key, 0))
        with self.saving():
            self.store.save(key, plan.spec.to_json(), row, table, {"versions": keys.versions()})
        self.progress.row(row)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """A full disk must not cost what is already known: the run goes on in memory, and says so."""
        try:
            yield
        except DiagError as error:
            if not self.unsaved:
                self.unsaved = str(error)
                self.progress.say(f"rows are no longer saved: {error.what}")

    def take_known_rows(self) -> None:
        """Rows that the file holds, or one of a load that comes to the same, and those whose plan says how they end."""
        stored = {} if self.options.fresh else self.store.rows()
        self.tries = {key: tries_of(row) for key, row in stored.items() if may_be_chance(row)}
        usable = {key: row for key, row in stored.items() if is_final(row, self.options.retry_failed)}
        by_load: dict[str, str] = {}
        for key, row in usable.items():
            by_load.setdefault(row.get("load_key") or "", key)
        taken: list[str] = []
        for spec in self.specs:
            plan = self.plans.get(spec)
            if plan is None:
                continue
            own = keys.row_key(plan, self.machine)
            if own in usable:
                self.rows[spec] = usable[own]
                taken.append(own)
                self.progress.row(usable[own], from_file=True)
            elif plan.failure is not None:
                self.keep(plan, failed_row(spec, plan.failure))
            elif (same := by_load.get(keys.load_key(plan, self.machine))) is not None:
                self.keep(plan, shared_row(usable[same], spec), self.store.placement(same))
        with contextlib.suppress(DiagError):  # only a page of a run that died needs to know
            self.store.note_use(taken)
