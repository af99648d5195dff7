"""Which PEFT adapter a model carries. Reads names and attributes only; PEFT itself is never imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYER_PARTS = ("lora_", ".ia3_", ".vera_", ".modules_to_save.")  # in the names of what PEFT adds to a layer
_PARTS = (*LAYER_PARTS, "prompt_encoder.", "trainable_tokens_")


def without_adapter(model: Any) -> Any:
    """The model below PEFT's wrapper, whose forward has names; any other model as it is."""
    get_base = getattr(model, "get_base_model", None)
    return get_base() if callable(get_base) and hasattr(model, "peft_config") else model


def carries_adapter(model: Any) -> bool:
    """Whether PEFT has wrapped this model or put layers of its own into it, also in place."""
    modules = model.modules() if hasattr(model, "modules") else ()
    return any(type(module).__module__.partition(".")[0] == "peft" for module in modules)


def is_adapter_part(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter and so is in no file of the base."""
    return any(part in name for part in _PARTS)


def active_adapters(model: Any) -> tuple[str, ...]:
    """The names of the adapters that answer now; empty where none does, or where it can't be told."""
    held = getattr(model, "active_adapters", None)
    if callable(held):  # transformers' own mixin has a method
        try:
            held = held()
        except (ValueError, ImportError):
            return ()
    held = held if held is not None else getattr(model, "active_adapter", ())
    return (held,) if isinstance(held, str) else tuple(held or ())


def adapter_configs(model: Any) -> Mapping[str, Any]:
    """PEFT's configs of the active adapters by name; of all of them where it can't be told which are active."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping):
        return {}
    active = active_adapters(model)
    return {name: config for name, config in configs.items() if name in active} or dict(configs)
