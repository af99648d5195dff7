"""matrix(): plan every spec, load what differs, one process a cell, and keep each row the moment it is known."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from diag.errors import DiagError, SpecError
from diag.loading.footprint import NOTHING, Packed
from diag.proving.probing import Answer
from diag.sweep import keys
from diag.sweep.cell.measure import Ask
from diag.sweep.isolate.pool import Death, Ended, Task, run
from diag.sweep.ordering import choose_workers, loads_to_do, price_of
from diag.sweep.preflight import check_results_place
from diag.sweep.pricing import Load, Price, most_informative_first
from diag.sweep.progress import Progress
from diag.sweep.results.rows import References, blank_row, failed_row, frame_of, measured_row, shared_row
from diag.sweep.results.store import Store
from diag.sweep.state import Options, Sweep
from diag.sweep.surveying import from_death, last_words, survey
from diag.values.spec import LoadSpec
from diag.values.units import format_seconds

_CELL = "diag.sweep.cell.measure"
_NO_TWIN = "no twin could be had"


def matrix(
    specs: Iterable[LoadSpec],
    results: str | os.PathLike[str] | None = "results.sqlite",
    *,
    timeout: float | None = 600.0,
    workers: int | None = None,
    retry_failed: bool = False,
    fresh: bool = False,
    memory_limit: int | None = None,
    budget: float | None = None,
    max_loads: int | None = None,
    deadline: float | None = None,
    yes: bool = True,
    progress: bool = True,
    cancelled: Callable[[], bool] | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> pd.DataFrame:
    """Loads every spec in a process of its own and returns one row per spec, in the order given.

    Columns: `diag.sweep.results.rows.MATRIX_COLUMNS`; seconds, bytes and counts are numbers, `status` is one of `ok`,
    `wrong_output`, `unsupported`, `load_error`, `forward_error`, `out_of_memory`, `killed`, `timeout`, `unchecked`,
    `not_run`, and `reason` explains it in a sentence. Rows are written to the SQLite file `results` as they come
    (None: kept nowhere); calling again does only what is missing, what died (once more) and what could not be judged
    (`finality.py`); `retry_failed` does deaths again however often, `fresh` all. `timeout` is seconds per cell,
    `memory_limit` bytes per cell. `workers` cells run at once: by default one per core, fewer for large models, one on
    a real accelerator. After `budget` seconds no further load begins, `max_loads` are done at most, the most
    informative first; `deadline` seconds end the whole run, and what is left over is `not_run`. `yes=False` refuses a
    run that would hold more than half of the host's free memory. `cancelled` is asked between cells; `on_row` gets
    each row as it is known. An interrupted and resumed run gives the same frame, `rows.MEASURED_ANEW` apart. Never
    raises for a cell. Raises DiagError for duplicate specs or a results file that can't be used; on KeyboardInterrupt
    what was finished is in the file.
    """
    specs = _checked(specs)
    options = Options(timeout, workers, memory_limit, budget, max_loads, deadline, retry_failed, fresh, yes, cancelled)
    with _results_file(results) as path, Store(path) as store, Progress(len(specs), progress, on_row) as bar:
        sweep = Sweep(specs, store, options, bar)
        try:
            survey(sweep)
            _take_what_is_known(sweep)
            _run(sweep)
        except KeyboardInterrupt as interrupt:
            where = "" if results is None else f" and are in {os.fspath(results)!r}; the same call goes on from there"
            interrupt.add_note(f"{len(sweep.rows)} of {len(specs)} rows were finished{where}.")
            raise
        for spec in specs:
            if spec not in sweep.rows:
                sweep.rows[spec] = blank_row(spec, "not_run", _why_not_run(sweep, spec))
        frame = frame_of([sweep.rows[spec] for spec in specs])
    if sweep.unsaved:
        frame.attrs["not_saved"] = sweep.unsaved
    return frame


def price(
    specs: Iterable[LoadSpec],
    results: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    fresh: bool = False,
    progress: bool = False,
) -> Price:
    """What `matrix` would take: plans every spec on meta, loads no weights, downloads none, changes no results file.

    Equal cells, which share a load, are counted once; rows that `results` holds cost nothing. Raises DiagError as
    `matrix` does.
    """
    specs = _checked(specs)
    options = Options(workers=workers, retry_failed=retry_failed, fresh=fresh)
    with tempfile.TemporaryDirectory(prefix="diag-price-") as folder:
        copy = Path(folder) / "results.sqlite"
        if results is not None and Path(results).is_file():
            shutil.copyfile(results, copy)
        with Store(copy) as store, Progress(len(specs), progress) as bar:
            sweep = Sweep(specs, store, options, bar)
            survey(sweep, outlines=Path(folder) / "outlines")
            bar.shown = False
            _take_what_is_known(sweep)
            return price_of(sweep, loads_to_do(sweep))


def placement_of(results: str | os.PathLike[str], spec: LoadSpec) -> pd.DataFrame:
    """The placement table that a matrix run stored for this spec (the newest, if there are several).

    Raises DiagError when the file has no row for it, or the load never got as far as a table.
    """
    with Store(Path(results), must_exist=True) as store:
        key = store.find(spec.to_json())
        if key is None:
            raise DiagError(
                f"{os.fspath(results)!r} has no row for {spec!r}.",
                why="a stored row belongs to one exact spec.",
                next_step="run diag.matrix([spec], results=…) first.",
            )
        table = store.placement(key)
        if table is None:
            row = store.rows()[key]
            raise DiagError(
                f"there is no placement for {spec!r}.",
                why=f"its status is {row['status']}: {row['reason']}",
                next_step="choose a combination that loaded.",
            )
        return table


def _checked(specs: Iterable[LoadSpec]) -> list[LoadSpec]:
    specs = [specs] if isinstance(specs, LoadSpec) else list(specs)
    wrong = [spec for spec in specs if not isinstance(spec, LoadSpec)]
    if wrong:
        raise SpecError(
            f"matrix takes LoadSpecs, and got a {type(wrong[0]).__name__}.",
            next_step="diag.matrix(diag.grid('tiny')).",
        )
    seen: set[LoadSpec] = set()
    for spec in specs:
        if spec in seen:
            raise SpecError(f"{spec!r} is given twice.", why="a row belongs to one spec.", next_step="leave one out.")
        seen.add(spec)
    return specs


@contextlib.contextmanager
def _results_file(results: str | os.PathLike[str] | None) -> Iterator[Path]:
    if results is not None:
        check_results_place(Path(results))
        yield Path(results)
        return
    with tempfile.TemporaryDirectory(prefix="diag-matrix-") as folder:
        yield Path(folder) / "results.sqlite"


def _take_what_is_known(sweep: Sweep) -> None:
    """Rows that the file holds, and those whose plan already says how they end."""
    if not sweep.options.fresh:
        sweep.take_stored()
    for spec in sweep.specs:
        plan = sweep.plans.get(spec)
        if spec not in sweep.rows and plan is not None and plan.failure is not None:
            sweep.keep(plan, failed_row(spec, plan.failure), None)


def _why_not_run(sweep: Sweep, spec: LoadSpec) -> str:
    if spec in sweep.left_out:
        return sweep.left_out[spec]
    if sweep.past_deadline:
        had = format_seconds(sweep.options.deadline or 0)
        return f"The deadline for the whole run passed before it was done: {had} of it were left for the loads."
    return "The run was cancelled before this cell began."


# --- running ----------------------------------------------------------------------------------------------------------


def _run(sweep: Sweep) -> None:
    loads = loads_to_do(sweep)
    if not loads:
        return
    choose_workers(sweep, loads)
    cost = price_of(sweep, loads)
    sweep.progress.say(str(cost))
    _refuse_if_large(sweep, cost)
    sweep.begin(min(cost.loads, sweep.options.max_loads or cost.loads) + cost.twins)
    if sweep.options.limited:
        loads = most_informative_first(loads)
    waiting = {load.key: load for load in loads}
    tasks: Iterator[Task] | list[Task] = _tasks(sweep, loads)
    while tasks:
        for ended in run(tasks, workers=sweep.workers, threads=sweep.threads,
                         memory_limit=sweep.options.memory_limit, cancelled=sweep.is_over):  # fmt: skip
            _note_end(sweep, ended)
            _finish_what_is_known(sweep, waiting)
        left = [load for load in waiting.values() if load.key in sweep.measured]
        tasks = [] if sweep.is_over() else [task for load in left for task in _reference_tasks(sweep, load)]
    _finish_what_is_known(sweep, waiting)


def _refuse_if_large(sweep: Sweep, cost: Price) -> None:
    if cost.is_large and not sweep.options.yes:
        raise SpecError(
            "this run would hold more than half of the host's free memory, and nobody said yes to that.",
            why=str(cost),
            next_step="say so with --yes (yes=True), or make it smaller: --workers 1, --max-loads, fewer combinations.",
        )


def _tasks(sweep: Sweep, loads: list[Load]) -> Iterator[Task]:
    """Each load after the references it needs; asked for one at a time, so that a budget can end it."""
    begun = 0
    for load in loads:
        if (why := _left_out(sweep, begun)) is not None:
            sweep.left_out.update({plan.spec: why for plan in load.plans})
            continue
        begun += 1
        yield from _reference_tasks(sweep, load)
        ask = Ask(load.plans[0].spec, sweep.free, dict(sweep.pinned))
        yield Task(f"load {load.key}", f"{_CELL}:measure", ask, sweep.options.timeout)


def _left_out(sweep: Sweep, begun: int) -> str | None:
    """Why no further load begins, if so."""
    options = sweep.options
    if options.max_loads is not None and begun >= options.max_loads:
        return f"Left out: {options.max_loads} loads were allowed, and others were more informative."
    if options.budget is not None and begun and sweep.elapsed + sweep.seconds_per_load > options.budget:
        return f"Left out: the budget of {format_seconds(options.budget)} was used up before it began."
    return None


def _reference_tasks(sweep: Sweep, load: Load) -> Iterator[Task]:
    needed = _needed(sweep, load) or {}
    for key, (spec, packed) in needed.items():
        if key in sweep.queued or key in sweep.references:
            continue
        sweep.queued.add(key)
        stored = sweep.store.reference(key)
        if stored is not None:
            sweep.references[key] = Answer.from_bytes(stored)
        else:
            ask = Ask(spec, sweep.free, dict(sweep.pinned), packed)
            yield Task(f"twin {key}", f"{_CELL}:be_twin", ask, sweep.options.timeout)


def _needed(sweep: Sweep, load: Load) -> dict[str, tuple[LoadSpec, Packed]] | None:
    measured = sweep.measured.get(load.key)
    packed = None if measured is None else getattr(measured, "packed", NOTHING)
    return keys.needed_references(load.plans[0], packed, sweep.threads)


def _note_end(sweep: Sweep, ended: Ended) -> None:
    kind, _, key = ended.key.partition(" ")
    sweep.cells_done += 1
    if kind == "load":
        sweep.measured[key] = ended.value if ended.death is None else ended.death
        sweep.note_seconds(key, ended.seconds, ended.death is None)
    elif ended.death is not None:
        sweep.references[key] = f"{_NO_TWIN}: {ended.death.error_type}, {last_words(ended.death)}"
    elif isinstance(ended.value, str):
        sweep.references[key] = ended.value
    else:
        sweep.references[key] = Answer.from_bytes(ended.value)
        with sweep.saving():
            sweep.store.save_reference(key, ended.value)


def _finish_what_is_known(sweep: Sweep, waiting: dict[str, Load]) -> None:
    for key in [key for key in waiting if key in sweep.measured]:
        needed = _needed(sweep, waiting[key]) or {}
        dead = isinstance(sweep.measured[key], Death)
        if dead or (needed and all(reference in sweep.references for reference in needed)):
            _finish(sweep, waiting.pop(key), list(needed))


def _finish(sweep: Sweep, load: Load, references: list[str]) -> None:
    measured, first = sweep.measured.pop(load.key), load.plans[0]
    table = None
    if isinstance(measured, Death):
        row = failed_row(first.spec, from_death(measured, "while loading or running"))
    else:
        answers = References(sweep.references[references[0]], sweep.references[references[-1]])
        row, table = measured_row(first, measured, answers), measured.placement
    if row["status"] == "not_run":
        return
    row["cell_seconds"] = sweep.seconds_of.get(load.key)
    sweep.keep(first, row, table)
    for plan in load.plans[1:]:
        sweep.keep(plan, shared_row(row, plan.spec), table)
