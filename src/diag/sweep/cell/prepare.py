"""In a process of its own, before any load: may the models be read and the devices be used, then fetch and plan.

What the first look finds ends in "could not judge": nothing is known about the model then, and nothing was loaded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diag.errors import CouldNotJudgeError, DiagError
from diag.loading.checkpoint.files import read_folder
from diag.loading.checkpoint.find import find_checkpoint, is_local, pin
from diag.loading.planning import Plan, plan_load
from diag.loading.recipe import check_needs
from diag.machine.accelerators import accelerator_name, device_count, free_memory, use_hardware
from diag.machine.holders import nvidia_gpus
from diag.models.devices import device_name
from diag.proving.savedrequest import check_request, is_saved_request
from diag.sweep.cell import ownfiles
from diag.sweep.cell.records import Failure, Free, Planned, Request, Survey, failure_of
from diag.values.functions import import_function, is_function_name
from diag.values.spec import LoadSpec
from diag.values.units import format_size


@dataclass(frozen=True)
class Before:
    """What was found before the first cell. `refused` maps a model to why it can't be read, `probes` a probe to why it
    can't be asked; `folders` a hub model to its snapshot in the cache; `to_fetch` one that is not there to the bytes to
    download; `machine` is why nothing can be judged on this machine's own devices."""

    refused: Mapping[str, DiagError] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    to_fetch: Mapping[str, int] = field(default_factory=dict)
    machine: DiagError | None = None
    notes: tuple[str, ...] = ()
    probes: Mapping[str, DiagError] = field(default_factory=dict)


def look_before(specs: Sequence[LoadSpec]) -> Before:
    """Checks each model and probe once, and this machine's devices; asks the hub, 5 s a question at most."""
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
    probes: dict[str, DiagError] = {}
    for probe in dict.fromkeys(spec.probe for spec in specs if spec.probe is not None):
        try:
            if is_saved_request(probe):
                check_request(probe)
            elif is_function_name(probe):
                import_function(probe, "probe")
        except DiagError as error:
            probes[probe] = error
    machine = devices_in_the_way() if any(not spec.simulated for spec in specs) else None
    return Before(refused, folders, to_fetch, machine, tuple(notes), probes)


def devices_in_the_way() -> DiagError | None:
    """Why this machine's accelerators can't be used now: exclusive mode and held by another, or prohibited."""
    for gpu in nvidia_gpus():
        held = [holder for holder in gpu.holders if holder.pid is not None and holder.owner != "this process"]
        if gpu.mode == "Prohibited":
            hint = f"nvidia-smi -i {gpu.index} -c DEFAULT, or hide it with CUDA_VISIBLE_DEVICES."
            return CouldNotJudgeError(f"GPU {gpu.index} takes no work: its compute mode is Prohibited.", next_step=hint)
        if gpu.mode.startswith("Exclusive") and held:
            what = f"GPU {gpu.index} is in exclusive mode, and {held[0].program} (pid {held[0].pid}) holds it."
            size = format_size(held[0].nbytes or 0)
            why = f"compute mode {gpu.mode} admits one process at a time; {size} are held."
            hint = "wait for that process, choose another GPU with CUDA_VISIBLE_DEVICES, or simulate one."
            return CouldNotJudgeError(what, why=why, next_step=hint)
    return None


def fetch(request: tuple[str, str | None]) -> str | Failure:
    """Downloads a hub model into the cache, or below a folder only its settings and headers, enough to plan it. Gives
    the folder where it now is, or why that failed. `request`: the model, and the folder for its outline."""
    from diag.loading.checkpoint import hub  # imports huggingface_hub, which the caller of matrix need not wait for

    model, folder = request
    try:
        return str(hub.fetch(model) if folder is None else hub.outline(model, Path(folder)))
    except Exception as error:
        return failure_of(error, "load_error")


def plan_specs(request: Request) -> Survey:
    """Plans each spec; reads no weights."""
    pin(request.folders)
    use_hardware(None)
    free = dict(request.free) if request.free is not None else free_memory()
    devices = ("cpu", *(f"{accelerator_name()}:{index}" for index in range(device_count())))
    return Survey(tuple(_planned(spec, free) for spec in request.specs), free, devices)


def _planned(spec: LoadSpec, free: Free) -> Planned:
    fingerprint, own = "", ""
    try:
        checkpoint = find_checkpoint(spec.model)
        fingerprint = checkpoint.fingerprint + ownfiles.data_fingerprint(spec)
        own = ownfiles.code_fingerprint(spec)
        plan = plan_load(spec, free)
        written = _bytes_written(plan)
        check_needs(plan, written)
    except Exception as error:
        return Planned(spec, fingerprint, failure=failure_of(error, "load_error"), loader_fingerprint=own)
    kind, sizes = accelerator_name(), plan.nbytes or {}
    placed = {device_name(int(key) if key.isdigit() else key, kind): size for key, size in sizes.items()}
    resolved = None if plan.resolved_map is None else json.dumps(dict(sorted(plan.resolved_map.items())))
    found = Planned(spec, fingerprint, checkpoint.nbytes, resolved, plan.packed, plan.n_linear, plan.spilled)
    return replace(found, loader_fingerprint=own, placed=placed, written=written)


def _bytes_written(plan: Plan) -> int:
    """What offloading to disk copies: nothing for plain safetensors, which accelerate reads where they are. Tensors of
    a `.bin` file, and those that a converter puts together (experts), are written to the offload folder. Source:
    offload_and_maybe_resave_param in transformers/core_model_loading.py, 5.23.0."""
    counts = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = any(getattr(plan.config, name, None) for name in counts)
    copied = experts or any(path.suffix == ".bin" for path in plan.checkpoint.files)
    return (plan.nbytes or {}).get("disk", 0) if copied else 0
