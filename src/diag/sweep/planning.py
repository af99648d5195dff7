"""Before the first load: a check of access, room and devices; downloads; each spec's plan; equal loads are shared."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diag.sweep import keys
from diag.sweep.cell import prepare
from diag.sweep.cell.prepare import Before
from diag.sweep.cell.records import Failure, Planned, Request, Survey, failure_of
from diag.sweep.isolate.deaths import Death
from diag.sweep.isolate.pool import Ended, Task, run
from diag.sweep.state import Sweep
from diag.values.hardware import Hardware
from diag.values.spec import LoadSpec
from diag.values.text import last_line
from diag.values.units import format_size

_LOOK_SECONDS = 60.0


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


def survey(sweep: Sweep, outlines: Path | None = None) -> None:
    """Fills `sweep.plans`: what can't be read or used is a plan with a failure, and costs seconds. Models that are not
    in the cache are downloaded; with `outlines`, a folder, only what it takes to plan them."""
    before = Before()
    for ended in _run(sweep, [Task("look", prepare.look_before, tuple(sweep.specs), _LOOK_SECONDS)]):
        if isinstance(ended.value, Before):
            before = ended.value
        elif ended.death is not None and not sweep.is_over():
            sweep.progress.say(f"the check before the first load gave no result: {last_words(ended.death)}")
    for note in before.notes:
        sweep.progress.say(note)
    sweep.pinned.update(before.folders)
    refused = {model: failure_of(error, "load_error") for model, error in before.refused.items()}
    refused |= _fetched(sweep, before, outlines)
    for spec in sweep.specs:
        error = before.probes.get(spec.probe or "") or (None if spec.simulated else before.machine)
        if spec.model in refused:
            sweep.plans[spec] = Planned(spec, failure=refused[spec.model])
        elif error is not None:
            reason = f"Could not be judged: {failure_of(error, 'not_run').reason}"
            sweep.plans[spec] = Planned(spec, failure=Failure("not_run", type(error).__name__, str(error), reason))
    _plan(sweep, [spec for spec in sweep.specs if spec not in sweep.plans])


def loads_to_do(sweep: Sweep) -> list[Load]:
    """The different loads of the rows that are not known yet, in the order given: specs of equal loads share one."""
    groups: dict[str, list[Planned]] = {}
    for spec in sweep.specs:
        plan = sweep.plans.get(spec)
        if spec not in sweep.rows and plan is not None and plan.failure is None:
            groups.setdefault(keys.load_key(plan, sweep.machine), []).append(plan)
    loads = [Load(key, tuple(plans)) for key, plans in groups.items()]
    if loads:
        sweep.workers = sweep.options.workers or _workers(sweep, loads)
        sweep.threads = max(1, (os.cpu_count() or 1) // sweep.workers)
    return loads


def failure_by(death: Death, when: str) -> Failure:
    """A process that did not come back, as a row's failure."""
    status = "load_error" if death.status == "raised" else death.status
    return Failure(status, death.error_type, death.text, f"{death.error_type} {when}: {last_words(death)}")


def last_words(death: Death) -> str:
    """The last line that a dead process left."""
    return last_line(death.text)[:300] or "it left no message"


def _fetched(sweep: Sweep, before: Before, outlines: Path | None) -> dict[str, Failure]:
    """Downloads what the cache does not hold; without a time limit of its own, since that is the network's."""
    failed: dict[str, Failure] = {}
    sweep.to_download = sum(before.to_fetch.values())
    tasks = []
    for number, (model, nbytes) in enumerate(before.to_fetch.items()):
        if outlines is None:
            sweep.progress.say(f"downloading {model}: {format_size(nbytes)}")
        tasks.append(Task(model, prepare.fetch, (model, None if outlines is None else str(outlines / str(number)))))
    for ended in _run(sweep, tasks):
        if isinstance(ended.value, str):
            sweep.pinned[ended.key] = ended.value
        elif isinstance(ended.value, Failure):
            failed[ended.key] = ended.value
        elif ended.death is not None:
            failed[ended.key] = failure_by(ended.death, "while downloading")
    return failed


def _plan(sweep: Sweep, specs: list[LoadSpec]) -> None:
    """Plans in processes of their own: one per model and hardware, since a simulated machine is set up for each."""
    groups: dict[tuple[str, Hardware | None], list[LoadSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.model, spec.hardware), []).append(spec)
    if groups:
        sweep.progress.say(f"planning {len(specs)} loads")
    for group in groups.values():  # one after the other: the first tells the next what memory is free
        request = Request(tuple(group), sweep.free, dict(sweep.pinned))
        (ended,) = _run(sweep, [Task("plan", prepare.plan_specs, request, sweep.options.timeout)])
        if isinstance(ended.value, Survey):
            sweep.free = sweep.free or ended.value.free_memory
            sweep.machine = ended.value.devices
            sweep.plans.update({plan.spec: plan for plan in ended.value.plans})
        elif ended.death is not None and ended.death.status != "not_run":
            failure = failure_by(ended.death, "while planning, before any weight was read")
            sweep.plans.update({spec: Planned(spec, failure=failure) for spec in group})


def _run(sweep: Sweep, tasks: Iterable[Task]) -> Iterator[Ended]:
    return run(tasks, workers=1, threads=1, cancelled=sweep.is_over)


def _workers(sweep: Sweep, loads: list[Load]) -> int:
    """How many cells run at once: one on a real accelerator, else as many as cores and memory bear, four at most."""
    if any(not spec.simulated for spec in sweep.specs) and any(name != "cpu" for name in sweep.machine):
        return 1
    room = (sweep.free or {}).get("cpu", 0)
    largest = max(load.plans[0].nbytes for load in loads)
    fitting = room // (3 * largest) if largest else 4  # a load holds the file's pages, the model and a copy in flight
    return int(max(1, min(os.cpu_count() or 1, 4, fitting)))
