"""One check before the first cell: may the models be read, is there room, are the devices free to use. Takes seconds.

What it finds ends in "could not judge": nothing is known about the model then, and nothing was loaded.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diag.errors import CheckpointError, CouldNotJudgeError, DiagError
from diag.loading.checkpoint.files import read_folder
from diag.loading.checkpoint.find import find_checkpoint, is_local
from diag.machine.folders import nearest_existing
from diag.machine.holders import nvidia_gpus
from diag.proving.savedrequest import check_request, is_saved_request
from diag.values.functions import import_function, is_function_name
from diag.values.spec import LoadSpec
from diag.values.units import format_size

_RESULTS_ROOM = 2 * 2**20  # bytes: rows and placement tables of one run of a small model


@dataclass(frozen=True)
class Before:
    """What was found before the first cell.

    `refused` maps a model to why it can't be read, `probes` a probe to why it can't be asked; `folders` a hub model to
    its snapshot in the cache; `to_fetch` one that is not there to the bytes to download; `machine` is why nothing can
    be judged on this machine's own devices.
    """

    refused: Mapping[str, DiagError] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    to_fetch: Mapping[str, int] = field(default_factory=dict)
    machine: DiagError | None = None
    notes: tuple[str, ...] = ()
    probes: Mapping[str, DiagError] = field(default_factory=dict)


def look_before(specs: Sequence[LoadSpec]) -> Before:
    """Checks each model once, and this machine's devices. Reads headers and asks the hub, 5 s a question at most."""
    from diag.loading.checkpoint import hub  # imports huggingface_hub, which the caller of matrix need not wait for

    refused: dict[str, DiagError] = {}
    folders: dict[str, str] = {}
    to_fetch: dict[str, int] = {}
    notes: list[str] = []
    for model in dict.fromkeys(spec.model for spec in specs):
        try:
            if is_local(model):
                find_checkpoint(model)
                continue
            access = hub.look(model)
            if access.folder is None:
                to_fetch[model] = access.nbytes
            else:
                read_folder(access.folder)
                folders[model] = str(access.folder)
            notes += [access.note] if access.note else []
        except DiagError as error:
            refused[model] = error
    machine = devices_in_the_way() if any(not spec.simulated for spec in specs) else None
    return Before(refused, folders, to_fetch, machine, tuple(notes), _probes_in_the_way(specs))


def _probes_in_the_way(specs: Sequence[LoadSpec]) -> dict[str, DiagError]:
    """Saved requests that are not there or broken, and probe functions that can't be imported."""
    found: dict[str, DiagError] = {}
    for probe in dict.fromkeys(spec.probe for spec in specs if spec.probe is not None):
        try:
            if is_saved_request(probe):
                check_request(probe)
            elif is_function_name(probe):
                import_function(probe, "probe")
        except DiagError as error:
            found[probe] = error
    return found


def devices_in_the_way() -> DiagError | None:
    """Why this machine's accelerators can't be used now: exclusive mode and held by another, or prohibited."""
    for gpu in nvidia_gpus():
        held = [holder for holder in gpu.holders if holder.pid is not None and holder.owner != "this process"]
        if gpu.mode == "Prohibited":
            hint = f"nvidia-smi -i {gpu.index} -c DEFAULT, or hide it with CUDA_VISIBLE_DEVICES."
            return CouldNotJudgeError(f"GPU {gpu.index} takes no work: its compute mode is Prohibited.", next_step=hint)
        if gpu.mode.startswith("Exclusive") and held:
            one = held[0]
            return CouldNotJudgeError(
                f"GPU {gpu.index} is in exclusive mode, and {one.program} (pid {one.pid}) holds it.",
                why=f"compute mode {gpu.mode} admits one process at a time; {format_size(one.nbytes or 0)} are held.",
                next_step="wait for that process, choose another GPU with CUDA_VISIBLE_DEVICES, or simulate one.",
            )
    return None


def check_results_place(path: Path) -> None:
    """Raises CheckpointError where the results file has no room to grow: a run that can't keep its rows is no use."""
    free = shutil.disk_usage(nearest_existing(path.absolute().parent)).free
    if free < _RESULTS_ROOM:
        what = f"there is no room for the results file {str(path)!r}."
        why = f"{format_size(free)} are free there, and a run keeps some {format_size(_RESULTS_ROOM)} of rows."
        raise CheckpointError(what, why=why, next_step="make room there, or give a path on another disk.")
