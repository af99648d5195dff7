"""Which fixes there are for a finding, safest first: values, not actions. `diag.fix` carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.diagnosis.mending.byhand import LIBRARY_MADE, allows_refill, allows_reload, by_hand
from diag.errors import SpecError
from diag.models.adapters import carries_adapter
from diag.values.finding import Finding, Fix
from diag.values.spec import LoadSpec
from diag.values.units import format_size

_TO_EMPTY = "to_empty() silences the error and leaves uninitialised memory."
_RELOADED_ALIKE = ("hooks-removed", "missing-weight-data", "submodule-replaced", "quantization-state-lost",
                   "concurrent-load", "never-materialised", "uninitialised-values", "quantized-cast",
                   "tied-weights-split", "offload-folder-missing", "quantization-skipped")  # fmt: skip
_HEALTHY_MODEL = (
    "weight-used-outside-hook",
    "moved-after-dispatch",
    "saving-offloaded-model",
    "compiled-hooks",
    "concurrent-calls",
)
_OTHER_MAP = {
    "quantized-offload-refused": ("single", "the whole model on one device, so that nothing is offloaded"),
    "device-map-incomplete": ("auto", "a map that the loader computes covers every tensor"),
    "tied-weights-split": ("auto", "a map that the loader computes keeps tied tensors together"),
    "out-of-memory": ("auto", "what does not fit goes to the CPU and to disk"),
    "adapter-on-offloaded-base": ("cpu", "a base that is not offloaded can take an adapter"),
    "training-offloaded-layers": ("single", "only layers that are on a device are trained"),
    "device-mismatch": ("auto", "hooks move the inputs of every module"),
    "compiled-hooks": ("none", "a model without hooks can be compiled"),
    "concurrent-calls": ("single", "a model that is not offloaded can be called by several threads"),
}


def fixes_for(finding: Finding, model: Any = None, spec: LoadSpec | None = None) -> tuple[Fix, ...]:
    """Fixes for one finding, safest first; the last is always what a person can do by hand."""
    spec = spec or _spec_from(model)
    last = by_hand(finding, model, spec)
    repairs = [one for one in _in_place(finding, model) if one.action != "refill" or allows_refill(finding, last)]
    return (*repairs, *(_reloads(finding, spec) if allows_reload(last, spec) else ()), last)


def _spec_from(model: Any) -> LoadSpec | None:
    """A spec for a model that came from a local folder: the same files, the same dtype. None with an adapter, whose
    files a model does not name: without them it would be another model."""
    import os

    if carries_adapter(model):
        return None
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    if not name or not os.path.isdir(name):
        return None
    quantization = _quantization(model)
    placed = getattr(model, "hf_device_map", None)
    as_placed = dict(placed) if isinstance(placed, Mapping) and placed and quantization == "none" else None
    try:
        placed_as: Any = _plain(as_placed) or ("auto" if quantization != "none" else "none")
        return LoadSpec(name, device_map=placed_as, dtype=_dtype(model), quantization=quantization)
    except SpecError:  # a map with devices that a spec can't name
        return LoadSpec(name, device_map="auto", dtype=_dtype(model), quantization=quantization)


def _plain(device_map: dict[str, Any] | None) -> dict[str, str | int] | None:
    """Devices as a spec takes them: numbers, or text for torch.device objects."""
    if device_map is None:
        return None
    return {name: device if isinstance(device, (int, str)) else str(device) for name, device in device_map.items()}


def _quantization(model: Any) -> str:
    """The spec's name for what a bitsandbytes config asks for."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    values = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    if values.get("load_in_8bit") or values.get("_load_in_8bit"):
        return "int8"
    if values.get("load_in_4bit") or values.get("_load_in_4bit"):
        kind = str(values.get("bnb_4bit_quant_type", "nf4"))
        return f"{kind}-double" if kind == "nf4" and values.get("bnb_4bit_use_double_quant") else kind
    return "none"


def _dtype(model: Any) -> str:
    text = str(getattr(model, "dtype", "auto")).removeprefix("torch.")
    return text if text in ("float32", "float16", "bfloat16") else "auto"


def _in_place(finding: Finding, model: Any) -> list[Fix]:
    """Repairs of the model itself; nothing is written to files."""
    if model is None:
        return []
    cause, names = finding.cause, finding.tensors
    if cause == "forward-bypasses-hook" and names:
        return [Fix("restore-forward", "takes the other forward off and puts accelerate's hook back in front.",
                    "diag.fix(diag.diagnose(model))", avoid=_TO_EMPTY)]  # fmt: skip
    if cause == "uninitialised-values" and names and all(_is_unsaved_buffer(model, name) for name in names):
        return [
            Fix(
                "restore-buffers",
                "computes the buffers anew, as the model's constructor does.",
                "diag.fix(diag.diagnose(model))",
            )
        ]
    if cause == "tied-weights-split" and len(names) > 1 and not _is_one_tensor(model, names):
        return [Fix("restore-tie", "ties the names to one tensor again.", "model.tie_weights()")]
    if cause == "input-on-meta" and LIBRARY_MADE not in finding.because:
        return [Fix("use-input-device", "the model is healthy: send the inputs to the device where it starts.",
                    "inputs = inputs.to(diag.input_device(model))", avoid="model.device is meta here.")]  # fmt: skip
    whole = hasattr(model, "named_parameters")  # not a pipeline's parts
    if cause == "moved-after-dispatch" and names and whole and _all_are_here(model, names):
        return [Fix("put-back", "moves these tensors back to the devices where their hooks run them.",
                    "diag.fix(diag.diagnose(model))", nbytes=_named_bytes(model, names)),
                Fix("materialise", "takes the hooks off and puts the whole model on one device, all or nothing.",
                    "diag.materialise(model)")]  # fmt: skip
    if cause == "device-mismatch":
        return _to_one_place(model) if whole else []
    if cause == "saving-offloaded-model" and not _is_hooked(model):
        return []
    if cause in _HEALTHY_MODEL or cause == "input-on-meta":
        return [Fix("materialise", "brings the offloaded weights in and takes the hooks off, all or nothing.",
                    "diag.materialise(model)", nbytes=_offloaded_bytes(model), avoid=_TO_EMPTY)]  # fmt: skip
    if cause in ("hooks-removed", "uninitialised-values", "submodule-replaced") and names:
        return [Fix("refill", "reads these tensors from the checkpoint's files into the model.",
                    "diag.fix(diag.diagnose(model))", nbytes=_named_bytes(model, names), avoid=_TO_EMPTY)]  # fmt: skip
    return []


def _to_one_place(model: Any) -> list[Fix]:
    """Without hooks, a model in one piece can only have met an input from elsewhere; one in pieces is put together."""
    from diag.diagnosis.mending.repairs import input_device
    from diag.models.hooks import align_hooks

    devices = {str(t.device) for t in (*model.parameters(), *model.buffers())}
    if "meta" in devices or any(align_hooks(module) for module in model.modules()):
        return []
    if len(devices) == 1:
        return [Fix("use-input-device", f"the whole model is on {devices.pop()}: send the inputs there.",
                    "inputs = inputs.to(diag.input_device(model))")]  # fmt: skip
    return [Fix("together", f"puts the whole model on {input_device(model)}, where it starts.",
                "model.to(diag.input_device(model))")]  # fmt: skip


def _all_are_here(model: Any, names: tuple[str, ...]) -> bool:
    held = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return all(name in held and not held[name].is_meta for name in names)


def _reloads(finding: Finding, spec: LoadSpec | None) -> list[Fix]:
    if spec is None:
        return []
    found = []
    if finding.cause in _OTHER_MAP:
        preset, why = _OTHER_MAP[finding.cause]
        found.append(reload_as(spec.replace(device_map=preset), why))
    if finding.cause in ("quantized-offload-refused", "out-of-memory", "memory-already-taken"):
        smaller = spec.replace(device_map="auto", quantization="none")
        found.append(reload_as(smaller, "unquantized weights can be offloaded when the device is full"))
    if finding.cause in _RELOADED_ALIKE and finding.cause not in _OTHER_MAP:
        found.append(
            reload_as(
                spec,
                "the same load, done as intended, with the values of these files and nothing that was put in later",
            )
        )
    return [one for n, one in enumerate(found) if one.spec not in [other.spec for other in found[:n]]]


def reload_as(spec: LoadSpec, why: str) -> Fix:
    """The fix that loads again with this spec; an adapter's base is kept off the disk."""
    if spec.adapter is not None and may_use_disk(spec):
        spec = spec.replace(device_map="cpu")
        why += "; without disk, since PEFT would write over the base's files there"
    size = _checkpoint_bytes(spec)
    memory = "" if size is None else f" It reads {format_size(size)} of weights again."
    return Fix(
        "reload", f"loads again: {why}.{memory}", f"diag.load(diag.{spec!r})", spec=spec, nbytes=size, avoid=_TO_EMPTY
    )


def may_use_disk(spec: LoadSpec) -> bool:
    """Whether this load may leave weights on disk: it says so, or it decides by the free memory."""
    if isinstance(spec.device_map, Mapping):
        return "disk" in map(str, spec.device_map.values())
    return spec.device_map not in ("none", "cpu", "single")


def _checkpoint_bytes(spec: LoadSpec) -> int | None:
    import os

    if not os.path.isdir(spec.model):
        return None
    return sum(f.stat().st_size for f in os.scandir(spec.model) if f.name.endswith((".safetensors", ".bin"))) or None


def _is_unsaved_buffer(model: Any, name: str) -> bool:
    path, _, local = name.rpartition(".")
    try:
        return local in model.get_submodule(path)._non_persistent_buffers_set
    except AttributeError:
        return False


def _is_one_tensor(model: Any, names: tuple[str, ...]) -> bool:
    """Whether the names share their tensor already, so that tying them again changes nothing."""
    named = getattr(model, "named_parameters", None)
    return named is not None and len({id(p) for n, p in named(remove_duplicate=False) if n in names}) == 1


def _is_hooked(model: Any) -> bool:
    return any("_hf_hook" in vars(module) for module in model.modules()) if hasattr(model, "modules") else True


def _offloaded_bytes(model: Any) -> int | None:
    return sum(p.nbytes for p in model.parameters() if p.is_meta) if hasattr(model, "parameters") else None


def _named_bytes(model: Any, names: tuple[str, ...]) -> int:
    wanted = set(names)
    return sum(p.nbytes for name, p in model.named_parameters() if name in wanted)
