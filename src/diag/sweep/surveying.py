"""Before the first load: one check of access, room and devices; downloads; then the plan of every spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diag.errors import DiagError
from diag.sweep.cell.measure import Failure, Planned, Survey, describe
from diag.sweep.isolate.pool import Death, Ended, Task, run
from diag.sweep.preflight import Before
from diag.sweep.state import Sweep
from diag.values.spec import LoadSpec
from diag.values.text import last_line
from diag.values.units import format_size

_CELL = "diag.sweep.cell.measure"
_LOOK_SECONDS = 60.0


def survey(sweep: Sweep, outlines: Path | None = None) -> None:
    """Fills `sweep.plans`: what can't be read or used is a plan with a failure, and costs seconds.

    Models that are not in the cache are downloaded; with `outlines`, a folder, only what it takes to plan them.
    """
    before = _look(sweep)
    for note in before.notes:
        sweep.progress.say(note)
    sweep.pinned.update(before.folders)
    refused = {model: describe(error, "load_error") for model, error in before.refused.items()}
    refused.update(_fetch(sweep, before, outlines))
    for spec in sweep.specs:
        if (failure := refused.get(spec.model)) is not None:
            sweep.plans[spec] = Planned(spec, failure=failure)
        elif spec.probe is not None and (error := before.probes.get(spec.probe)) is not None:
            sweep.plans[spec] = Planned(spec, failure=_held(error))
        elif before.machine is not None and not spec.simulated:
            sweep.plans[spec] = Planned(spec, failure=_held(before.machine))
    _plan(sweep, [spec for spec in sweep.specs if spec not in sweep.plans])


def from_death(death: Death, when: str) -> Failure:
    """A process that did not come back, as a row's failure."""
    status = "load_error" if death.status == "raised" else death.status
    return Failure(status, death.error_type, death.text, f"{death.error_type} {when}: {last_words(death)}")


def last_words(death: Death) -> str:
    return last_line(death.text)[:300] or "it left no message"


def _look(sweep: Sweep) -> Before:
    task = Task("look", f"{_CELL}:look", tuple(sweep.specs), _LOOK_SECONDS)
    for ended in list(_run(sweep, [task])):  # to its end: left early, it would end the supervisor, not keep it
        if isinstance(ended.value, Before):
            return ended.value
        if ended.death is not None and not sweep.is_over():
            sweep.progress.say(f"the check before the first load gave no result: {last_words(ended.death)}")
    return Before()


def _held(error: DiagError) -> Failure:
    reason = describe(error, "not_run").reason
    return Failure("not_run", type(error).__name__, str(error), f"Could not be judged: {reason}")


def _fetch(sweep: Sweep, before: Before, outlines: Path | None) -> dict[str, Failure]:
    """Downloads what the cache does not hold; without a time limit of its own, since that is the network's."""
    failed: dict[str, Failure] = {}
    sweep.to_download = sum(before.to_fetch.values())
    tasks = []
    for number, (model, nbytes) in enumerate(before.to_fetch.items()):
        if outlines is None:
            sweep.progress.say(f"downloading {model}: {format_size(nbytes)}")
            tasks.append(Task(model, f"{_CELL}:fetch", model, None))
        else:
            tasks.append(Task(model, f"{_CELL}:outline", (model, str(outlines / str(number))), None))
    for ended in _run(sweep, tasks):
        if isinstance(ended.value, str):
            sweep.pinned[ended.key] = ended.value
        elif isinstance(ended.value, Failure):
            failed[ended.key] = ended.value
        elif ended.death is not None:
            failed[ended.key] = from_death(ended.death, "while downloading")
    return failed


def _plan(sweep: Sweep, specs: list[LoadSpec]) -> None:
    """Plans in processes of their own: one per model and hardware, since a simulated machine is set up for each."""
    groups: dict[tuple[str, Any], list[LoadSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.model, spec.hardware), []).append(spec)
    members = {str(number): group for number, group in enumerate(groups.values())}
    if members:
        sweep.progress.say(f"planning {len(specs)} loads")
    for key, group in members.items():  # one after the other: the first tells the next what memory is free
        request = (tuple(group), sweep.free, dict(sweep.pinned))
        for ended in _run(sweep, [Task(key, f"{_CELL}:survey", request, sweep.options.timeout)]):
            _take(sweep, ended, group)


def _take(sweep: Sweep, ended: Ended, group: list[LoadSpec]) -> None:
    if isinstance(ended.value, Survey):
        sweep.free = sweep.free or ended.value.free_memory
        sweep.machine = ended.value.devices
        sweep.plans.update({plan.spec: plan for plan in ended.value.plans})
    elif ended.death is not None and ended.death.status != "not_run":
        failure = from_death(ended.death, "while planning, before any weight was read")
        sweep.plans.update({spec: Planned(spec, failure=failure) for spec in group})


def _run(sweep: Sweep, tasks: list[Task]) -> Any:
    return run(tasks, workers=1, threads=1, cancelled=sweep.is_over)
