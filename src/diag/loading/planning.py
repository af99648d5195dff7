"""plan_load(spec): everything that can be decided before a weight is read, or the error that would stop the load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from diag.errors import CheckpointError, MissingLibraryError, UnsupportedError
from diag.loading.checkpoint.files import Checkpoint, find_checkpoint
from diag.loading.modelclass import load_config, may_run_its_code, model_class
from diag.loading.needs import check_devices
from diag.loading.packing import NOTHING, Packed, is_packed_class, packed_of
from diag.loading.presets import check_map, disk_map, offload_map
from diag.loading.quantizing import OFFLOAD_RULE, check_stored, is_bitsandbytes, quantization_config
from diag.loading.transformers_private import skeleton
from diag.machine.here import accelerator_name, usable_memory, use_hardware
from diag.models.maps import device_for
from diag.models.tensors import tie_sources
from diag.values.spec import AS_STORED, AUTO_PRESETS, LoadSpec
from diag.values.units import format_size

Device = str | int


@dataclass(frozen=True)
class Plan:
    """How one spec would be loaded: the arguments for `from_pretrained`, and what they come to.

    `resolved_map` is the final device map (None: no map at all), `packed` the modules that will hold quantized
    weights, `n_linear` how many linear layers there are, `nbytes` the bytes per device the map places there, and
    `spilled` says in a sentence which limit pushed blocks off the first device (empty: none left it).
    """

    spec: LoadSpec
    checkpoint: Checkpoint
    model_class: type | None
    config: Any
    arguments: Mapping[str, Any]
    resolved_map: Mapping[str, Device] | None
    packed: Packed = NOTHING
    n_linear: int = 0
    nbytes: Mapping[str, int] | None = None
    spilled: str = ""

    @property
    def needs_disk(self) -> bool:
        """Whether the map places weights on disk; for a user's loader the map that it is given."""
        given = self.arguments.get("device_map") if self.spec.loader is not None else None
        return "disk" in (self.resolved_map or (given if isinstance(given, Mapping) else {})).values()


def plan_load(spec: LoadSpec, free_memory: Mapping[Any, int] | None = None) -> Plan:
    """Resolves a spec against its checkpoint and machine. Reads files and headers, never a weight.

    `free_memory` (device index or "cpu" to bytes) stands in for asking the machine now. Raises DiagError for what it
    finds wrong, UnsupportedError for a known refusal; other errors are the libraries' own.
    """
    use_hardware(spec.hardware)
    check_devices(spec)
    checkpoint = find_checkpoint(spec.model)
    check_stored(spec, checkpoint)
    if spec.loader is not None:
        return _plan_for_loader(spec, checkpoint, free_memory)
    config = load_config(checkpoint)
    kind = model_class(checkpoint, config)
    arguments = _arguments(spec, checkpoint, config, free_memory)
    device_map = _requested_map(spec, kind, checkpoint, arguments)
    return _resolve(spec, checkpoint, kind, config, {**arguments, "device_map": device_map})


def _plan_for_loader(spec: LoadSpec, checkpoint: Checkpoint, free_memory: Any) -> Plan:
    """A user's loader gets the request; what it makes of it is seen after the load."""
    try:
        config = load_config(checkpoint)
    except CheckpointError:  # the loader may know what transformers alone does not
        config = None
    arguments = _arguments(spec, checkpoint, config, free_memory)
    device_map = _map_for_loader(spec, checkpoint, arguments)
    return Plan(spec, checkpoint, None, config, {**arguments, "device_map": device_map}, None)


def _map_for_loader(spec: LoadSpec, checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> Any:
    """What transformers takes: `disk` and `offload` are diag's own words, so a loader gets the map they stand for."""
    if not isinstance(spec.device_map, str):
        return dict(spec.device_map)
    if spec.device_map not in ("disk", "offload"):
        return _simple_map(spec.device_map)
    try:
        return _requested_map(spec, model_class(checkpoint, arguments["config"]), checkpoint, arguments)
    except UnsupportedError:
        raise
    except Exception as e:  # a class that is not known, or one that can't be built without weights: each has its own
        raise UnsupportedError(
            f"no map can be written for the preset {spec.device_map!r} and the loader {spec.loader!r}.",
            why=f"the preset {spec.device_map!r} is a map that diag writes from {spec.model!r} built without weights, "
            f"and that can't be built: {getattr(e, 'what', '') or f'{type(e).__name__}: {e}'}",
            next_step="give the map yourself: device_map={'module.name': 'disk', …}.",
        ) from e


def _arguments(spec: LoadSpec, checkpoint: Checkpoint, config: Any, free_memory: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "config": config,
        "dtype": spec.dtype,
        "trust_remote_code": may_run_its_code(checkpoint),
        "quantization_config": quantization_config(spec, getattr(config, "dtype", None)),
    }
    if spec.device_map in AUTO_PRESETS:
        arguments["max_memory"] = usable_memory(spec, free_memory)
    return arguments


def first_device() -> Device:
    """The first accelerator as accelerate counts it, or the CPU."""
    return 0 if accelerator_name() else "cpu"


def _simple_map(preset: str) -> Any:
    if preset == "none":
        return None
    if preset == "single":
        return {"": first_device()}
    return {"": "cpu"} if preset == "cpu" else preset


def _requested_map(spec: LoadSpec, kind: type, checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> Any:
    if spec.device_map == "none" and spec.simulated and is_bitsandbytes(spec, arguments["config"]):
        return {"": 0}  # what its update_device_map does on cuda, xpu, npu and hpu, the devices it knows by name
    if isinstance(spec.device_map, str) and spec.device_map not in ("disk", "offload"):
        return _simple_map(spec.device_map)
    plain = {k: v for k, v in arguments.items() if k != "quantization_config"}
    model = skeleton(kind, str(checkpoint.folder), **plain, device_map={"": "cpu"}).model
    if not isinstance(spec.device_map, str):
        check_map(model, dict(spec.device_map))
        return dict(spec.device_map)
    ties = tie_sources(model)
    write = disk_map if spec.device_map == "disk" else offload_map
    return write(model, first_device(), {*ties, *ties.values()})


def _resolve(spec: LoadSpec, checkpoint: Checkpoint, kind: type, config: Any, arguments: dict[str, Any]) -> Plan:
    asked = {**arguments, "device_map": {"": "cpu"}} if arguments["device_map"] is None else arguments
    try:
        built = skeleton(kind, str(checkpoint.folder), **asked)
    except ImportError as e:
        raise MissingLibraryError(
            f"quantization={spec.quantization!r} can't be used here.", why=str(e), next_step="install what it names."
        ) from e
    except ValueError as e:
        known = known_refusal(spec, config, e)
        if known is None:
            raise
        raise known from e
    has_map = arguments["device_map"] is not None or arguments["quantization_config"] is not None
    resolved = {name: _plain(device) for name, device in built.device_map.items()} if has_map else None
    layers = linear_layers(built.model)
    without_map = {"": "cpu" if accelerator_name() is None else 0}
    packed = packed_of(layers, lambda name, _: device_for(name, resolved or without_map, "cpu"))
    nbytes = bytes_per_device(built.model, resolved or {"": "cpu"})
    plan = Plan(spec, checkpoint, kind, config, arguments, resolved, packed, len(layers), nbytes)
    return replace(plan, spilled=_why_spilled(plan))


def known_refusal(spec: LoadSpec, config: Any, error: ValueError) -> UnsupportedError | None:
    """The rule behind an error that transformers raises before it reads a weight; None for any other error."""
    text = str(error)
    if is_bitsandbytes(spec, config) and "dispatched on the CPU or the disk" in text:
        unquantized = "the unquantized checkpoint" if spec.quantization == AS_STORED else "quantization='none'"
        return UnsupportedError(
            f"{spec.quantization} with a map that holds cpu or disk is refused before the load.",
            why=OFFLOAD_RULE,
            next_step=f"use a map on the accelerator alone, more memory, a smaller model or {unquantized}.",
        )
    if "DeepSpeed Zero-3" in text:
        return UnsupportedError(
            "a device map together with DeepSpeed ZeRO-3 is refused before the load.",
            why="check_and_set_device_map in transformers/integrations/accelerate.py: " + text,
            next_step="drop the device map, or end the ZeRO-3 configuration of this process.",
        )
    return None


def linear_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Linear-like layers by name, the ones a quantizer may replace (transformers' Conv1D included)."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]


def bytes_per_device(model: nn.Module, device_map: Mapping[str, Device]) -> dict[str, int]:
    """Bytes that the map places on each device, each tied tensor once.

    As transformers plans: a weight to be packed counts 1 byte an element for int8 and half a byte for 4 bits, without
    its quantization state (quantized_element_size in quantizers/quantizer_bnb_*.py, 5.23.0).
    """
    followers = tie_sources(model)
    sums: dict[str, int] = {}
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            full = f"{path}.{name}" if path else name
            if tensor is None or full in followers:
                continue
            device = str(_plain(device_for(full, device_map, "cpu")))
            sums[device] = sums.get(device, 0) + int(tensor.numel() * _element_size(module, name, tensor))
    return sums


def _element_size(module: nn.Module, name: str, tensor: torch.Tensor) -> float:
    if name != "weight" or not is_packed_class(module):
        return tensor.element_size()
    return 0.5 if any(kind.__name__ == "Linear4bit" for kind in type(module).__mro__) else 1.0


def _plain(device: Any) -> Device:
    if isinstance(device, int):
        return device
    text = str(device)
    kind, _, index = text.partition(":")
    return int(index or 0) if kind == accelerator_name() else text


def _why_spilled(plan: Plan) -> str:
    """One sentence: which block was the first to leave the first device, and what pushed it. Empty: none left."""
    preset, placed = plan.spec.device_map, plan.resolved_map
    if placed is None or plan.nbytes is None or not isinstance(preset, str):
        return ""
    first = next(iter(placed.values()))
    left = [(name, device) for name, device in placed.items() if device != first]
    if not left:
        return ""
    if preset not in AUTO_PRESETS:
        return f"{len(left)} map entries left {_device_text(first)} because the preset {preset!r} puts them elsewhere"
    name, device = left[0]
    return (
        f"{name!r} is the first to leave {_device_text(first)}, for {_device_text(device)}: "
        f"{format_size(plan.nbytes.get(str(first), 0))} of {format_size(sum(plan.nbytes.values()))} are placed there, "
        f"{_limit_sentence(plan, first, device)}"
    )


def _limit_sentence(plan: Plan, first: Device, then: Device) -> str:
    limits = plan.arguments.get("max_memory") or {}
    limit = f"its limit is {format_size(limits[first])}" if first in limits else "it has no limit"
    accelerators = sum(isinstance(key, int) for key in limits)
    if isinstance(then, int) and plan.spec.device_map != "sequential":
        return f"{limit}, and {plan.spec.device_map!r} spreads the blocks over {accelerators} accelerators"
    return f"{limit}, and room for the largest block is kept free there"


def _device_text(device: Device) -> str:
    return f"{accelerator_name()}:{device}" if isinstance(device, int) else str(device)
