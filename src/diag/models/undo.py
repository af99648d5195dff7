"""all_or_nothing(model): a change of a model that fails half-way is taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

_OF_MODULES = ("_hf_hook", "_old_forward", "forward")
_OF_MODEL = ("hf_device_map",)


@contextlib.contextmanager
def all_or_nothing(model: Any) -> Iterator[None]:
    """Where the body raises, tensors, hooks and forwards of the model are again the objects that they were before.

    Keeps references only, no copies: a tensor whose own data was moved in place stays moved. What is no module (None,
    a pipeline) is left alone.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    before = [(module, _state(module)) for module in model.modules()]
    of_model = _chosen(model, _OF_MODEL)
    try:
        yield
    except BaseException:
        for module, (parameters, buffers, attributes) in before:
            _restore(module._parameters, parameters)
            _restore(module._buffers, buffers)
            _put_back(module, attributes, _OF_MODULES)
        _put_back(model, of_model, _OF_MODEL)
        raise


def _state(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    return dict(module._parameters), dict(module._buffers), _chosen(module, _OF_MODULES)


def _chosen(module: nn.Module, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: module.__dict__[name] for name in names if name in module.__dict__}


def _restore(now: dict[str, Any], before: dict[str, Any]) -> None:
    now.clear()
    now.update(before)


def _put_back(module: nn.Module, before: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        module.__dict__.pop(name, None)
    module.__dict__.update(before)
