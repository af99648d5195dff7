"""Reads a model for what its placement table does not show: hooks that were taken off, ties, quantization, gradients.

Reads attributes and values only; nothing is moved, called or changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from diag.diagnosis.evidence import ModelFacts, Row
from diag.diagnosis.evidence.values import value_facts
from diag.models.hooks import align_hooks
from diag.models.maps import ancestors, device_for
from diag.models.tensors import tie_sources, unserved

_PEFT_PARTS = re.compile(r"(?:^|\.)(?:lora_\w+|modules_to_save|ia3_\w+|vera_\w+|original_module|base_layer)(?:\.|$)")
_PACKED_CLASSES = ("Linear4bit", "Linear8bitLt", "LinearFP4", "LinearNF4", "Linear8bit")


def facts_of(model: nn.Module, rows: tuple[Row, ...], spec: Any = None, values: bool = True) -> ModelFacts:
    """All facts of one module. `values=False` leaves out what reads tensors and files."""
    modules = dict(model.named_modules())
    hooked = tuple(path for path, module in modules.items() if align_hooks(module))
    found = value_facts(model, spec) if values else {}
    return ModelFacts(
        class_name=type(model).__name__,
        is_adapter=is_adapter(model),
        stripped=tuple(path for path, module in modules.items() if was_stripped(module)),
        newcomers=tuple(_newcomers(modules)),
        lost_ties=tuple(_lost_ties(model)),
        unpacked=(*_unpacked(model, modules), *never_packed(modules)),
        stateless=tuple(_stateless(modules)),
        bare_meta=tuple(_bare_meta(modules)),
        frozen_out=tuple(_frozen_out(model)),
        off_meta_state=tuple(r.name for r in rows if r.kind == "quant_state" and r.device == "meta"
                             and not _weight_is_meta(rows, r)),
        strays=tuple(_strays(modules, set(hooked))),
        unserved=tuple(unserved(model)),
        first_device=str(next((p.device for p in model.parameters()), "")),
        **found,
    )  # fmt: skip


def with_nested_maps(rows: tuple[Row, ...], model: nn.Module) -> tuple[Row, ...]:
    """Fills in the device of maps that sit on an inner model, as on the base of a PeftModel."""
    maps: dict[str, str] = {}
    for path, module in model.named_modules():
        inner = module.__dict__.get("hf_device_map")
        if path and isinstance(inner, Mapping):
            maps.update({f"{path}.{key}" if key else path: str(device) for key, device in inner.items()})
    if not maps:
        return rows
    return tuple(replace(row, mapped_device=row.mapped_device or device_for(row.name, maps, "")) for row in rows)


def is_adapter(model: nn.Module) -> bool:
    """Whether PEFT has put layers of its own into the model, also in place."""
    return any(type(module).__module__.startswith("peft.tuners") for module in model.modules())


def was_stripped(module: nn.Module) -> bool:
    """accelerate's `remove_hook_from_module` puts the old forward back as an attribute of the instance."""
    state = module.__dict__
    forward = state.get("forward")
    return (
        forward is not None
        and "_hf_hook" not in state
        and "_old_forward" not in state
        and getattr(forward, "__self__", None) is module
        and getattr(forward, "__func__", None) is getattr(type(module), "forward", None)
    )


def _newcomers(modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Modules without the mark that transformers leaves on all it loaded, right inside one that has it.

    What stands beside a loaded model, in a wrapper of the user's own, was never part of a load and is not judged.
    """
    for path, module in modules.items():
        parent = modules.get(path.rpartition(".")[0]) if path else None
        if parent is None or _is_marked(module) or not _is_marked(parent):
            continue
        ours = _PEFT_PARTS.search(path) or type(module).__module__.startswith("peft")
        if not ours and (module._modules or any(True for _ in module.parameters(recurse=False))):
            yield path


def _is_marked(module: nn.Module) -> bool:
    return bool(module.__dict__.get("_is_hf_initialized"))


def _strays(modules: Mapping[str, nn.Module], hooked: set[str]) -> Iterator[str]:
    """Modules whose tensors no hook serves, inside a dispatched model, while a sibling has its own hook."""
    for path, module in modules.items():
        if path in hooked or _PEFT_PARTS.search(path) or not any(True for _ in module.parameters(recurse=False)):
            continue
        above = [modules[up] for up in ancestors(path) if up in modules and up != path]
        dispatched = any("hf_device_map" in one.__dict__ or align_hooks(one) or _is_marked(one) for one in above)
        placed = any(h.place_submodules for one in above for h in align_hooks(one))
        parent = path.rpartition(".")[0]
        if dispatched and not placed and any(p and p.rpartition(".")[0] == parent for p in hooked):
            yield path


def _lost_ties(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs that the model declares tied, and whose tensors differ where both are here."""
    for follower, source in _declared_ties(model).items():
        a, b = _tensor(model, follower), _tensor(model, source)
        if a is None or b is None or a is b:
            continue
        if a.is_meta != b.is_meta or a.is_meta:
            continue  # one is offloaded: the store decides, and the orphan rule names it if nobody has it
        if a.shape != b.shape or not _same_values(a, b):
            yield follower, source


def _declared_ties(model: Any) -> dict[str, str]:
    declared = tie_sources(model)
    if declared:
        return declared
    config = getattr(model, "config", None)
    text: Any = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    if not getattr(text, "tie_word_embeddings", False) or not hasattr(model, "get_output_embeddings"):
        return {}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(module): path for path, module in model.named_modules()}
    if head is None or id(head) not in names or id(embedding) not in names:
        return {}
    return {f"{names[id(head)]}.weight": f"{names[id(embedding)]}.weight"}


def _tensor(model: nn.Module, name: str) -> torch.Tensor | None:
    path, _, local = name.rpartition(".")
    try:
        owner = model.get_submodule(path)
    except AttributeError:
        return None
    return owner._parameters.get(local, owner._buffers.get(local))


def _same_values(a: torch.Tensor, b: torch.Tensor, rows: int = 64) -> bool:
    """Compared on evenly spaced rows."""
    step = max(1, a.shape[0] // rows) if a.dim() else 1
    left, right = (a, b) if not a.dim() else (a[::step], b[::step])
    return bool(torch.equal(left.detach().float().cpu(), right.detach().float().cpu()))


def _unpacked(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Linear layers in full precision although the config asks for bitsandbytes, and nothing excuses them."""
    config = _quantization_config(model)
    if not config or "bitsandbytes" not in str(config.get("quant_method", "")).lower():
        return
    packed = any(type(module).__name__ in _PACKED_CLASSES for module in modules.values())
    excused = _excused(model, config, with_offloaded=packed)
    for path, module in modules.items():
        if (
            type(module) is nn.Linear
            and not _PEFT_PARTS.search(path)
            and not any(_covers(key, path) for key in excused)
        ):
            yield f"{path}.weight"


def _excused(model: Any, config: Mapping[str, Any], with_offloaded: bool) -> list[str]:
    """Modules that may stay at full size; those that were offloaded on request only where others are quantized."""
    keys = list(config.get("llm_int8_skip_modules") or [])
    if with_offloaded:
        keys += list(getattr(getattr(model, "hf_quantizer", None), "modules_to_not_convert", None) or [])
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = {id(module): path for path, module in model.named_modules()}
    keys += [names[id(head)]] if head is not None and id(head) in names else []
    keys += list(getattr(model, "_keep_in_fp32_modules", None) or [])
    last = list(names.values())[-1:] if len(names) > 1 else []
    return keys + last + ["lm_head", "score", "classifier"]


def _covers(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.") or f".{key}." in f".{path}." or path.endswith(f".{key}")


def _quantization_config(model: nn.Module) -> dict[str, Any]:
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is None:
        return {}
    values = (
        dict(config)
        if isinstance(config, Mapping)
        else (config.to_dict() if hasattr(config, "to_dict") else vars(config))
    )
    return {**values, "quant_method": str(getattr(values.get("quant_method"), "value", values.get("quant_method")))}


def _bare_meta(modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Plain tensor attributes on meta, which are neither parameters nor buffers, so that no load fills them."""
    for path, module in modules.items():
        for key, value in module.__dict__.items():
            held = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(one, torch.Tensor) and one.is_meta for one in held[:64]):
                yield f"{path}.{key}" if path else key


def _stateless(modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Packed layers whose bytes have no scales."""
    for path, module in modules.items():
        weight = module._parameters.get("weight")
        if type(module).__name__ not in _PACKED_CLASSES or weight is None or weight.is_meta:
            continue
        if weight.dtype == torch.uint8 and getattr(weight, "quant_state", None) is None:
            if getattr(module, "quant_state", None) is None or type(weight).__name__ != "Params4bit":
                yield f"{path}.weight"
        elif weight.dtype == torch.int8:
            scales = getattr(weight, "SCB", None)
            held = scales if scales is not None else getattr(getattr(module, "state", None), "SCB", None)
            if held is None or type(weight).__name__ != "Int8Params":
                yield f"{path}.weight"


def never_packed(modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Layers of a packed class around a plain weight."""
    for path, module in modules.items():
        weight = module._parameters.get("weight")
        if type(module).__name__ not in _PACKED_CLASSES or weight is None or weight.is_meta:
            continue
        on_purpose = getattr(getattr(module, "state", None), "has_fp16_weights", False)
        if weight.dtype.is_floating_point and not on_purpose and getattr(weight, "quant_state", None) is None:
            yield f"{path}.weight"


def _frozen_out(model: nn.Module) -> Iterator[str]:
    """Trainable tensors on meta, while others of the same model have received a gradient."""
    parameters = list(model.named_parameters())
    if not any(p.grad is not None for _, p in parameters):
        return
    yield from (name for name, p in parameters if p.is_meta and p.requires_grad)


def _weight_is_meta(rows: tuple[Row, ...], state: Row) -> bool:
    return any(r.module == state.module and r.kind == "parameter" and r.device == "meta" for r in rows)
