"""matrix(): plan every spec, load what differs, one process a cell, and keep each row the moment it is known."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from diag.errors import DiagError, SpecError
from diag.probing import Answer
from diag.spec import LoadSpec
from diag.sweep.cell import Failure, Measured, Planned, Survey
from diag.sweep.isolate import Death, Ended, Task, run
from diag.sweep.progress import Progress
from diag.sweep.rows import References, blank_row, failed_row, frame_of, measured_row, shared_row
from diag.sweep.store import Store

RETRIED = ("killed", "timeout", "out_of_memory")
_CELL = "diag.sweep.cell"
_NO_TWIN = "no twin could be had"


@dataclass
class _Sweep:
    """One call of matrix: what is known so far. Rows go to the store as they come."""

    specs: list[LoadSpec]
    store: Store
    timeout: float | None
    workers: int | None
    memory_limit: int | None
    cancelled: Callable[[], bool] | None
    progress: Progress
    plans: dict[LoadSpec, Planned] = field(default_factory=dict)
    free: Mapping[Any, int] | None = None
    machine: tuple[str, ...] = ()
    threads: int = 1
    rows: dict[LoadSpec, dict[str, Any]] = field(default_factory=dict)
    references: dict[str, Answer | str] = field(default_factory=dict)
    measured: dict[str, Measured | Death] = field(default_factory=dict)
    unsaved: str = ""


def matrix(
    specs: Iterable[LoadSpec],
    results: str | os.PathLike[str] | None = "results.sqlite",
    *,
    timeout: float | None = 600.0,
    workers: int | None = None,
    retry_failed: bool = False,
    fresh: bool = False,
    memory_limit: int | None = None,
    progress: bool = True,
    cancelled: Callable[[], bool] | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> pd.DataFrame:
    """Loads every spec in a process of its own and returns one row per spec, in the order given.

    Columns: `diag.sweep.rows.MATRIX_COLUMNS`; seconds, bytes and counts are numbers, `status` is one of `ok`,
    `wrong_output`, `unsupported`, `load_error`, `forward_error`, `out_of_memory`, `killed`, `timeout`, `unchecked`,
    `not_run`, and `reason` explains it in a sentence. Rows are written to the SQLite file `results` as they come
    (None: kept nowhere); calling again does only what is missing. `killed`, `timeout` and `out_of_memory` stay until
    `retry_failed`; `fresh` does all again. `timeout` is seconds per cell, `memory_limit` bytes per cell. `workers`
    cells run at once: by default one per core, fewer for large models, one on a real accelerator.
    `cancelled` is asked between cells; `on_row` gets each row as it is known. Never raises for a cell. Raises
    DiagError for duplicate specs or a results file that can't be used; on KeyboardInterrupt what was finished is in
    the file.
    """
    specs = _checked(specs)
    path = Path(tempfile.mkdtemp(prefix="diag-matrix-")) / "results.sqlite" if results is None else Path(results)
    with Store(path) as store, Progress(len(specs), progress, on_row) as bar:
        sweep = _Sweep(specs, store, timeout, workers, memory_limit, cancelled, bar)
        try:
            _plan(sweep)
            if not fresh:
                _take_stored(sweep, retry_failed)
            _run(sweep)
        except KeyboardInterrupt as interrupt:
            where = "" if results is None else f" and are in {os.fspath(results)!r}; the same call goes on from there"
            interrupt.add_note(f"{len(sweep.rows)} of {len(specs)} rows were finished{where}.")
            raise
        for spec in specs:
            if spec not in sweep.rows:
                sweep.rows[spec] = blank_row(spec, "not_run", "The run was cancelled before this cell began.")
        frame = frame_of([sweep.rows[spec] for spec in specs])
    if sweep.unsaved:
        frame.attrs["not_saved"] = sweep.unsaved
    return frame


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


# --- planning ---------------------------------------------------------------------------------------------------------


def _plan(sweep: _Sweep) -> None:
    """Plans in processes of their own: one per model and hardware, since a simulated machine is set up for each."""
    groups: dict[tuple[str, Any], list[LoadSpec]] = {}
    for spec in sweep.specs:
        groups.setdefault((spec.model, spec.hardware), []).append(spec)
    tasks = [
        Task(str(i), f"{_CELL}:survey", (tuple(group), sweep.free), sweep.timeout)
        for i, group in enumerate(groups.values())
    ]
    members = dict(zip((task.key for task in tasks), groups.values()))
    sweep.progress.say(f"planning {len(sweep.specs)} loads")
    for ended in run(tasks, workers=1, threads=1, cancelled=sweep.cancelled):
        if isinstance(ended.value, Survey):
            sweep.free = sweep.free or ended.value.free_memory
            sweep.machine = ended.value.devices
            sweep.plans.update({plan.spec: plan for plan in ended.value.plans})
        elif ended.death is not None:
            failure = _from_death(ended.death, "while planning, before any weight was read")
            sweep.plans.update({spec: Planned(spec, failure=failure) for spec in members[ended.key]})


def _workers(sweep: _Sweep, accelerator: bool) -> int:
    if sweep.workers is not None:
        return max(1, sweep.workers)
    if accelerator:
        return 1
    room = (sweep.free or {}).get("cpu", 0)
    largest = max((plan.nbytes for plan in sweep.plans.values()), default=0)
    fitting = room // (3 * largest) if largest else 4  # a load holds the file's pages, the model and a copy in flight
    return int(max(1, min(os.cpu_count() or 1, 4, fitting)))


# --- keys -------------------------------------------------------------------------------------------------------------


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _versions() -> dict[str, str]:
    from diag.environment import versions

    return versions()


def _row_key(sweep: _Sweep, plan: Planned) -> str:
    """Changes with the spec, its checkpoint, the libraries, diag, and for this machine its devices."""
    machine = "" if plan.spec.simulated else sweep.machine
    return _key("row", plan.spec.to_json(), plan.fingerprint, _versions(), machine)


def _load_key(sweep: _Sweep, plan: Planned) -> str:
    """Equal for specs that come to the same load: same resolved map, quantization, dtype and the rest."""
    spec = plan.spec
    values = {**spec.to_json(), "device_map": plan.resolved_map, "max_memory": None}
    if plan.failure is not None or spec.loader is not None:
        values["device_map"] = f"as asked: {spec.device_map_text}"
    machine = "" if spec.simulated else sweep.machine
    return _key("load", values, plan.fingerprint, _versions(), machine)


def _twin_key(sweep: _Sweep, plan: Planned, quantization: str, packed: Sequence[str]) -> str:
    """Thread count included: sums over more threads may round differently."""
    spec = plan.spec
    facts = [spec.model, quantization, spec.dtype, spec.adapter, spec.probe, list(packed)]
    return _key("twin", facts, plan.fingerprint, _versions(), sweep.threads)


# --- what is stored already -------------------------------------------------------------------------------------------


def _take_stored(sweep: _Sweep, retry_failed: bool) -> None:
    stored = sweep.store.rows()
    by_load: dict[str, dict[str, Any]] = {}
    for row in stored.values():
        if row.get("load_key") and (row["status"] not in RETRIED or not retry_failed):
            by_load.setdefault(row["load_key"], row)
    for spec, plan in sweep.plans.items():
        row = stored.get(_row_key(sweep, plan))
        if row is not None and (row["status"] not in RETRIED or not retry_failed):
            sweep.rows[spec] = row
            sweep.progress.row(row, from_file=True)
        elif plan.failure is None and (twin := by_load.get(_load_key(sweep, plan))) is not None:
            source = next((s for s in stored if stored[s] is twin), None)
            table = sweep.store.placement(source) if source is not None else None
            _keep(sweep, plan, shared_row(twin, spec), table)


# --- running ----------------------------------------------------------------------------------------------------------


def _run(sweep: _Sweep) -> None:
    groups: dict[str, list[Planned]] = {}
    for spec in sweep.specs:
        plan = sweep.plans.get(spec)
        if spec in sweep.rows or plan is None:
            continue
        if plan.failure is not None:
            _keep(sweep, plan, failed_row(spec, plan.failure), None)
        else:
            groups.setdefault(_load_key(sweep, plan), []).append(plan)
    if not groups:
        return
    accelerator = any(name != "cpu" for name in sweep.machine) and any(not s.simulated for s in sweep.specs)
    workers = _workers(sweep, accelerator)
    sweep.threads = max(1, (os.cpu_count() or 1) // workers)
    waiting = dict(groups)
    tasks = list(_tasks(sweep, groups))
    sweep.progress.say(f"{len(groups)} different loads for {sum(map(len, groups.values()))} rows, {workers} at a time")
    for ended in run(tasks, workers=workers, threads=sweep.threads, memory_limit=sweep.memory_limit,
                     cancelled=sweep.cancelled):  # fmt: skip
        _note_end(sweep, ended)
        for key in [key for key in waiting if key in sweep.measured and _references_known(sweep, waiting[key][0])]:
            _finish(sweep, key, waiting.pop(key))


def _tasks(sweep: _Sweep, groups: Mapping[str, list[Planned]]) -> Iterator[Task]:
    queued: set[str] = set()
    for key, plans in groups.items():
        for twin_key, request in _needed_references(sweep, plans[0]).items():
            if twin_key in queued or twin_key in sweep.references:
                continue
            queued.add(twin_key)
            stored = sweep.store.reference(twin_key)
            if stored is not None:
                sweep.references[twin_key] = Answer.from_bytes(stored)
            else:
                yield Task(f"twin {twin_key}", f"{_CELL}:be_twin", request, sweep.timeout)
        yield Task(f"load {key}", f"{_CELL}:measure", (plans[0].spec, sweep.free), sweep.timeout)


def _needed_references(sweep: _Sweep, plan: Planned) -> dict[str, tuple[LoadSpec, tuple[str, ...]]]:
    """The twin, and for the quality figure the unquantized model."""
    spec = plan.spec
    needed = {_twin_key(sweep, plan, spec.quantization, plan.packed): (spec, plan.packed)}
    if spec.quantization not in ("none", "as-stored"):
        plain = spec.replace(quantization="none")
        needed[_twin_key(sweep, plan, "none", ())] = (plain, ())
    return needed


def _references_known(sweep: _Sweep, plan: Planned) -> bool:
    return all(key in sweep.references for key in _needed_references(sweep, plan))


def _note_end(sweep: _Sweep, ended: Ended) -> None:
    kind, _, key = ended.key.partition(" ")
    if kind == "load":
        sweep.measured[key] = ended.value if ended.death is None else ended.death
    elif ended.death is not None:
        sweep.references[key] = f"{_NO_TWIN}: {ended.death.error_type}, {_short(ended.death.text)}"
    elif isinstance(ended.value, str):
        sweep.references[key] = ended.value
    else:
        sweep.references[key] = Answer.from_bytes(ended.value)
        with _saving(sweep):
            sweep.store.save_reference(key, ended.value)


def _finish(sweep: _Sweep, key: str, plans: list[Planned]) -> None:
    measured, first = sweep.measured.pop(key), plans[0]
    table = None
    if isinstance(measured, Death):
        row = failed_row(first.spec, _from_death(measured, "while loading or running"))
    else:
        keys = list(_needed_references(sweep, first))
        answers = References(sweep.references[keys[0]], sweep.references[keys[-1]])
        row, table = measured_row(first, measured, answers), measured.placement
    if row["status"] == "not_run":
        return
    _keep(sweep, first, row, table)
    for plan in plans[1:]:
        _keep(sweep, plan, shared_row(row, plan.spec), table)


def _from_death(death: Death, when: str) -> Failure:
    """A process that did not come back, as a row's failure."""
    status = "load_error" if death.status == "raised" else death.status
    return Failure(status, death.error_type, death.text, f"{death.error_type} {when}: {_short(death.text)}")


def _short(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it left no message"


def _keep(sweep: _Sweep, plan: Planned, row: dict[str, Any], table: pd.DataFrame | None) -> None:
    row = {**row, "load_key": None if plan.failure is not None else _load_key(sweep, plan)}
    sweep.rows[plan.spec] = row
    with _saving(sweep):
        sweep.store.save(_row_key(sweep, plan), plan.spec.to_json(), row, table, {"versions": _versions()})
    sweep.progress.row(row)


@contextlib.contextmanager
def _saving(sweep: _Sweep) -> Iterator[None]:
    """A full disk must not cost what is already known: the run goes on in memory, and says so."""
    try:
        yield
    except DiagError as error:
        if not sweep.unsaved:
            sweep.unsaved = str(error)
            sweep.progress.say(f"rows are no longer saved: {error.what}")
