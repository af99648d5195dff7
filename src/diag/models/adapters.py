"""The one owner of what PEFT and others put into a model. Reads names and attributes; imports neither PEFT nor torch.

Whether a tensor was put in is told by structure: PEFT's modules hold the base under a few known children, and all else
is theirs. Where there is only a text, names have to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import nn

    from diag.models.walk import OnFailure, Visit

Model = TypeVar("Model")
LAYER_PARTS = ("lora_", ".ia3_", ".vera_", ".modules_to_save.")  # in the names of what PEFT adds to a layer
_PARTS = (*LAYER_PARTS, "prompt_encoder.", "trainable_tokens_")
_MODULES = re.compile(r"(?:^|\.)(?:lora_\w+|modules_to_save|ia3_\w+|vera_\w+|original_module|base_layer)(?:\.|$)")
_THE_BASE = ("base_model", "model", "base_layer", "original_module")  # children of PEFT's modules that lead to the base


def without_adapter(model: Model) -> Model:
    """The model below PEFT's wrapper, whose forward has names; any other model as it is."""
    get_base = getattr(model, "get_base_model", None)
    base: Model = get_base() if callable(get_base) and hasattr(model, "peft_config") else model
    return base


def carries_adapter(model: object) -> bool:
    """Whether PEFT has wrapped this model or put layers of its own into it, also in place."""
    modules = getattr(model, "modules", None)
    return callable(modules) and any(is_of_peft(type(module)) for module in modules())


def is_of_peft(kind: type) -> bool:
    """Whether PEFT wrote this class of a module: its wrapper, or a layer of its own."""
    home = kind.__module__
    return home.startswith("peft.") or home == "peft"


def is_adapter_part(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter and so is in no file of the base."""
    return any(part in name for part in _PARTS)


def is_adapter_module(path: str) -> bool:
    """Whether a module of this path was put in by PEFT, or stands in PEFT's layer as the base's own."""
    return _MODULES.search(path) is not None


def active_adapters(model: object) -> tuple[str, ...]:
    """The names of the adapters that answer now; empty where none does, or where it can't be told."""
    held = getattr(model, "active_adapters", None)
    if callable(held):  # transformers' own mixin has a method
        try:
            held = held()
        except (ValueError, ImportError):
            return ()
    held = held if held is not None else getattr(model, "active_adapter", ())
    return (held,) if isinstance(held, str) else tuple(held or ())


def adapter_configs(model: object) -> Mapping[str, object]:
    """PEFT's configs of the active adapters by name; of all of them where it can't be told which are active."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping):
        return {}
    active = active_adapters(model)
    return {name: config for name, config in configs.items() if name in active} or dict(configs)


def mark_what_was_put_in(visits: Sequence[Visit], failed: OnFailure) -> bool:
    """Says of each visit whether PEFT, a parametrization, pruning or a weight norm put it in, and which tensors of it.

    No checkpoint of the base has these. The answer is whether PEFT wrapped the model or put layers of its own into it.
    """
    carries_adapter = False
    of_peft = {kind: is_of_peft(kind) for kind in {type(at.module) for at in visits}}
    for at in visits:
        module, above = at.module, at.parent
        carries_adapter = carries_adapter or of_peft[type(module)]
        try:
            at.put_in = above is not None and (
                above.put_in
                or _is_parametrization(above.module)
                or (of_peft[type(above.module)] and at.name not in _THE_BASE)
            )
            if at.put_in or of_peft[type(module)] or module._forward_pre_hooks or _is_parametrization(module):
                at.names_put_in = _names_put_in(module, at.put_in)
        except Exception as error:
            failed(f"what was put into {at.path or type(module).__name__}", error)
    return carries_adapter


def _names_put_in(module: nn.Module, inside_added: bool) -> tuple[str, ...]:
    is_list = _is_parametrization(module)
    # Pruning, and the older weight and spectral norms, compute the weight in a hook before each forward.
    is_computed = any(type(one).__module__.startswith("torch.nn.utils.") for one in module._forward_pre_hooks.values())
    is_layer = is_of_peft(type(module)) and "base_layer" in module._modules
    if not (inside_added or is_list or is_layer or is_computed):
        return ()
    names = (*module._parameters.keys(), *module._buffers.keys())
    if inside_added or is_layer:
        return names
    if is_list:
        return tuple(name for name in names if name != "original")
    return tuple(name for name in names if name.endswith(("_mask", "_u", "_v", "_g")) and name[:-2] not in names)


def _is_parametrization(module: nn.Module) -> bool:
    """torch's list of parametrizations of one weight, which holds the weight itself as `original`."""
    return type(module).__name__ == "ParametrizationList"
