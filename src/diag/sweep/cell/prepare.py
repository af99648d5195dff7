"""In a process of its own, before any load: fetch a model or its outline, and plan what each spec comes to."""

import json
from pathlib import Path

from diag.loading.checkpoint.find import find_checkpoint, pin
from diag.loading.planning import Plan, plan_load
from diag.loading.recipe import check_needs
from diag.machine.accelerators import accelerator_name, device_names, free_memory, use_hardware
from diag.models.devices import device_name
from diag.sweep.cell import ownfiles
from diag.sweep.cell.records import Failure, Free, Planned, Request, Survey, failure_of
from diag.values.spec import LoadSpec


def fetch(request: tuple[str, str | None]) -> str | Failure:
    """Downloads a hub model into the cache, or below a folder only its settings and headers, enough to plan it.

    Gives the folder where it now is, or why that failed. `request`: the model, and the folder for its outline.
    """
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
    devices = tuple(device_names())
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
    return Planned(
        spec,
        fingerprint,
        nbytes=checkpoint.nbytes,
        resolved_map=None if plan.resolved_map is None else json.dumps(dict(sorted(plan.resolved_map.items()))),
        packed=plan.packed,
        n_linear=plan.n_linear,
        spilled=plan.spilled,
        loader_fingerprint=own,
        placed={device_name(int(key) if key.isdigit() else key, kind): size for key, size in sizes.items()},
        written=written,
    )


def _bytes_written(plan: Plan) -> int:
    """What offloading to disk copies: nothing for plain safetensors, which accelerate reads where they are.

    Tensors of a `.bin` file, and those that a converter puts together (experts), are written to the offload folder.
    Source: offload_and_maybe_resave_param in transformers/core_model_loading.py, 5.23.0.
    """
    counts = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = any(getattr(plan.config, name, None) for name in counts)
    copied = experts or any(path.suffix == ".bin" for path in plan.checkpoint.files)
    return (plan.nbytes or {}).get("disk", 0) if copied else 0
