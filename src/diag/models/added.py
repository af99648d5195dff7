"""Which tensors of a model no checkpoint of its base has: an adapter's own, and what torch puts in for a weight.

Told by structure, not by names: PEFT's modules hold the base under a few known children, and all else is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize

_THE_BASE = ("base_model", "model", "base_layer", "original_module")  # children of PEFT's modules that lead to the base


def added_tensors(model: nn.Module) -> frozenset[str]:
    """Names of parameters and buffers that PEFT, a parametrization, pruning or a weight norm has put in."""
    return frozenset(_added(model, "", False))


def _added(module: nn.Module, path: str, ours: bool) -> Iterator[str]:
    by_peft = type(module).__module__.startswith("peft.")
    listed = isinstance(module, parametrize.ParametrizationList)
    if ours or listed or (by_peft and "base_layer" in module._modules) or _is_reparametrized(module):
        kept = ("original",) if listed else _kept(module) if not (ours or by_peft) else ()
        names = (*module._parameters, *module._buffers)
        yield from (f"{path}{name}" for name in names if name not in kept or ours)
    for name, child in module._modules.items():
        if child is not None:
            theirs = ours or listed or (by_peft and name not in _THE_BASE)
            yield from _added(child, f"{path}{name}.", theirs)


def _is_reparametrized(module: nn.Module) -> bool:
    """Pruning, and the older weight and spectral norms, compute the weight in a hook before each forward."""
    return any(type(hook).__module__.startswith("torch.nn.utils.") for hook in module._forward_pre_hooks.values())


def _kept(module: nn.Module) -> tuple[str, ...]:
    """The tensors of such a module that the checkpoint may hold: the original weight, and what is not touched."""
    names = (*module._parameters, *module._buffers)
    made = [name for name in names if name.endswith(("_mask", "_u", "_v", "_g")) and name[:-2] not in names]
    return tuple(name for name in names if name not in made)
