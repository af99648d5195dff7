"""matrix(): plan every spec, load what differs, one process a cell, and keep each row the moment it is known."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from diag.errors import CheckpointError, DiagError, SpecError
from diag.loading.footprint import NOTHING, Packed
from diag.machine.folders import nearest_existing
from diag.proving.probing import Answer
from diag.sweep import keys
from diag.sweep.cell.measure import measure, twin_answer
from diag.sweep.cell.records import Measured, Request
from diag.sweep.isolate.pool import Ended, Task, run
from diag.sweep.planning import Load, failure_by, last_words, loads_to_do, survey
from diag.sweep.pricing import Price, most_informative_first, price_of
from diag.sweep.results.rows import blank_row, failed_row, frame_of, measured_row, shared_row
from diag.sweep.results.store import Row, Store
from diag.sweep.state import Options, Progress, Sweep
from diag.values.spec import LoadSpec
from diag.values.units import format_seconds, format_size

_RESULTS_ROOM = 2 * 2**20  # bytes: rows and placement tables of one run of a small model


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
    on_row: Callable[[Row], None] | None = None,
) -> pd.DataFrame:
    """Loads every spec in a process of its own and returns one row per spec, in the order given.

    Columns: `diag.sweep.results.rows.MATRIX_COLUMNS`; `reason` explains `status` in a sentence. Rows are written to the
    SQLite file `results` as they come (None: kept nowhere); calling again does only what is missing, what died (once
    more) and what could not be judged (`finality.py`). `retry_failed` does deaths again however often, `fresh` all.
    `timeout` is seconds and `memory_limit` bytes per cell. `workers` cells run at once: by default one per core, fewer
    for large models, one on a real accelerator. After `budget` seconds no further load begins, `max_loads` are done at
    most, the most informative first, and `deadline` seconds end the run; what is left over is `not_run`. `yes=False`
    refuses a run that would hold more than half of the host's free memory. `cancelled` is asked between cells, `on_row`
    gets each row. A run that goes on after an interrupt gives the same frame, `rows.MEASURED_ANEW` apart. Never raises
    for a cell. Raises DiagError for duplicate specs or a results file that can't be used.
    """
    specs = _checked(specs)
    options = Options(timeout, workers, memory_limit, budget, max_loads, deadline, retry_failed, fresh, yes, cancelled)
    with _results_file(results) as path, Store(path) as store, Progress(len(specs), progress, on_row) as bar:
        sweep = Sweep(specs, store, options, bar)
        with _saying_what_is_finished(sweep, results):
            survey(sweep)
            sweep.take_known_rows()
            load_all(sweep, loads_to_do(sweep))
        return _frame(sweep)


def load_all(sweep: Sweep, loads: list[Load]) -> None:
    """Prices the loads, then runs each and the references it needs in processes of their own, and keeps their rows."""
    if not loads:
        return
    cost, options = price_of(sweep, loads), sweep.options
    sweep.progress.say(str(cost))
    if cost.is_large and not options.yes:
        hint = "say so with --yes (yes=True), or make it smaller: --workers 1, --max-loads, fewer combinations."
        what = "this run would hold more than half of the host's free memory, and nobody said yes to that."
        raise SpecError(what, why=str(cost), next_step=hint)
    if options.budget is not None or options.max_loads is not None:
        loads = most_informative_first(loads)
    sweep.begin(min(cost.loads, options.max_loads or cost.loads) + cost.twins)
    waiting = {load.key: load for load in loads}
    tasks: Iterable[Task] = _tasks(sweep, loads)
    limit = options.memory_limit
    while tasks:
        ends = run(tasks, workers=sweep.workers, threads=sweep.threads, memory_limit=limit, cancelled=sweep.is_over)
        for ended in ends:
            _note_end(sweep, ended)
            _keep_what_is_known(sweep, waiting)
        left = [] if sweep.is_over() else [load for load in waiting.values() if load.key in sweep.ended]
        tasks = [task for load in left for task in _reference_tasks(sweep, load)]
    _keep_what_is_known(sweep, waiting)


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
            sweep.take_known_rows()
            return price_of(sweep, loads_to_do(sweep))


def placement_of(results: str | os.PathLike[str], spec: LoadSpec) -> pd.DataFrame:
    """The placement table that a matrix run stored for this spec (the newest, if there are several).

    Raises DiagError when the file has no row for it, or the load never got as far as a table.
    """
    with Store(Path(results), must_exist=True) as store:
        key = store.find(spec.to_json())
        if key is None:
            what, why = f"{os.fspath(results)!r} has no row for {spec!r}.", "a stored row belongs to one exact spec."
            raise DiagError(what, why=why, next_step="run diag.matrix([spec], results=…) first.")
        table = store.placement(key)
        if table is None:
            row = store.rows()[key]
            what, why = f"there is no placement for {spec!r}.", f"its status is {row['status']}: {row['reason']}"
            raise DiagError(what, why=why, next_step="choose a combination that loaded.")
        return table


def _checked(specs: Iterable[LoadSpec]) -> list[LoadSpec]:
    specs = [specs] if isinstance(specs, LoadSpec) else list(specs)
    seen: set[LoadSpec] = set()
    for spec in specs:
        if not isinstance(spec, LoadSpec):
            what = f"matrix takes LoadSpecs, and got a {type(spec).__name__}."
            raise SpecError(what, next_step="write for example diag.matrix(diag.grid('tiny')).")
        if spec in seen:
            raise SpecError(f"{spec!r} is given twice.", why="a row belongs to one spec.", next_step="leave one out.")
        seen.add(spec)
    return specs


@contextlib.contextmanager
def _results_file(results: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Raises CheckpointError where the file has no room to grow: a run that can't keep its rows is no use."""
    if results is None:
        with tempfile.TemporaryDirectory(prefix="diag-matrix-") as folder:
            yield Path(folder) / "results.sqlite"
        return
    free = shutil.disk_usage(nearest_existing(Path(results).absolute().parent)).free
    if free < _RESULTS_ROOM:
        what = f"there is no room for the results file {os.fspath(results)!r}."
        why = f"{format_size(free)} are free there, and a run keeps some {format_size(_RESULTS_ROOM)} of rows."
        raise CheckpointError(what, why=why, next_step="make room there, or give a path on another disk.")
    yield Path(results)


@contextlib.contextmanager
def _saying_what_is_finished(sweep: Sweep, results: str | os.PathLike[str] | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        where = "" if results is None else f" and are in {os.fspath(results)!r}; the same call goes on from there"
        interrupt.add_note(f"{len(sweep.rows)} of {len(sweep.specs)} rows were finished{where}.")
        raise


def _frame(sweep: Sweep) -> pd.DataFrame:
    why = "The run was cancelled before this cell began."
    if sweep.past_deadline:
        had = format_seconds(sweep.options.deadline)
        why = f"The deadline for the whole run passed before this cell was done: the loads had {had}."
    left = {spec: blank_row(spec, "not_run", sweep.left_out.get(spec, why)) for spec in sweep.specs}
    frame = frame_of(list((left | sweep.rows).values()))
    if sweep.unsaved:
        frame.attrs["not_saved"] = sweep.unsaved
    return frame


def _tasks(sweep: Sweep, loads: list[Load]) -> Iterator[Task]:
    """Each load after the references it needs; asked for one at a time, so that a budget can end it."""
    options, begun = sweep.options, 0
    for load in loads:
        why = ""
        if options.max_loads is not None and begun >= options.max_loads:
            why = f"Left out: {options.max_loads} loads were allowed, and others were more informative."
        elif begun and sweep.is_over_budget():
            why = f"Left out: the budget of {format_seconds(options.budget)} was used up before it began."
        if why:
            sweep.left_out.update({plan.spec: why for plan in load.plans})
            continue
        begun += 1
        yield from _reference_tasks(sweep, load)
        request = Request((load.plans[0].spec,), sweep.free, dict(sweep.pinned))
        yield Task(f"load {load.key}", measure, request, options.timeout)


def _reference_tasks(sweep: Sweep, load: Load) -> Iterator[Task]:
    """The references that nobody has asked for yet; those that the file holds are taken from there."""
    for key, (spec, packed) in _references_of(sweep, load).items():
        if key in sweep.queued:
            continue
        sweep.queued.add(key)
        stored = sweep.store.reference(key)
        if stored is not None:
            sweep.references[key] = Answer.from_bytes(stored)
        else:
            request = Request((spec,), sweep.free, dict(sweep.pinned), packed)
            yield Task(f"twin {key}", twin_answer, request, sweep.options.timeout)


def _references_of(sweep: Sweep, load: Load) -> dict[str, tuple[LoadSpec, Packed]]:
    """The references of a load by key; none yet where it depends on what a user's loader will pack."""
    ended, packed = sweep.ended.get(load.key), None
    if ended is not None:
        packed = ended.value.packed if isinstance(ended.value, Measured) else NOTHING
    return keys.needed_references(load.plans[0], packed, sweep.threads)


def _note_end(sweep: Sweep, ended: Ended) -> None:
    """A load waits for its references; a reference, or why there is none, is there for every row that needs it."""
    kind, _, key = ended.key.partition(" ")
    sweep.cells_done += 1
    if kind == "load":
        sweep.ended[key] = ended
        sweep.note_seconds(ended)
    elif ended.death is not None:
        sweep.references[key] = f"no twin could be had: {ended.death.error_type}, {last_words(ended.death)}"
    elif isinstance(ended.value, bytes):
        sweep.references[key] = Answer.from_bytes(ended.value)
        with sweep.saving():
            sweep.store.save_reference(key, ended.value)
    else:
        sweep.references[key] = str(ended.value)


def _keep_what_is_known(sweep: Sweep, waiting: dict[str, Load]) -> None:
    """Judges and keeps the rows of each load that died, or whose references are all there."""
    for key in [key for key in waiting if key in sweep.ended]:
        load, ended = waiting[key], sweep.ended[key]
        references = list(_references_of(sweep, load))
        known = [sweep.references[reference] for reference in references if reference in sweep.references]
        if ended.death is None and (not known or len(known) < len(references)):
            continue
        del waiting[key], sweep.ended[key]
        first, table = load.plans[0], None
        if isinstance(ended.value, Measured):
            row, table = measured_row(first, ended.value, known[0], known[-1]), ended.value.placement
        elif ended.death is None or ended.death.status == "not_run":
            continue
        else:
            row = failed_row(first.spec, failure_by(ended.death, "while loading or running"))
        row["cell_seconds"] = ended.seconds
        sweep.keep(first, row, table)
        for plan in load.plans[1:]:
            sweep.keep(plan, shared_row(row, plan.spec), table)
