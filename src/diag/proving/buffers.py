"""Buffers that are not saved: do they hold what the model computes when it is built?"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from diag.loading.checkpoint.stored import plain_name
from diag.models.snapshot import Snapshot
from diag.proving.watching import Args, Function, Named

_BIG = 2**22  # elements: a tensor that large is a parameter; its values are not needed to build buffers


def wrong_buffers(snapshot: Snapshot) -> list[str]:
    """Non-persistent buffers that differ from those of a model built anew from the same config."""
    ours = [e for e in snapshot.entries if e.kind == "non_persistent_buffer" and e.can_be_sampled]
    base = snapshot.base
    is_of_transformers = type(base).__module__.startswith("transformers.") or hasattr(base, "save_pretrained")
    if not ours or not (is_of_transformers and hasattr(base, "config") and hasattr(base, "_init_weights")):
        return []
    plain, wrong = [plain_name(entry.name) for entry in ours], []
    fresh = fresh_buffers(base)
    for entry, name in zip(ours, plain):
        expected = fresh.get(name)
        if expected is None or expected.is_meta or expected.shape != entry.tensor.shape:
            continue
        if not _changes_by_itself(entry.owner) and not _alike(entry.tensor, expected):
            wrong.append(entry.name)
    return wrong


def fresh_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The non-persistent buffers of a new model of this class; large parameters are not allocated for it."""
    try:
        config: Any = copy.deepcopy(model.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.random.fork_rng(devices=[]), torch.no_grad(), _SmallOnly(), torch.device("cpu"):
            new = type(model)(config)
    except Exception:  # a constructor that wants more than a config: this check is left out
        return {}
    return {
        f"{path}.{name}" if path else name: module._buffers[name]
        for path, module in new.named_modules()
        for name in module._non_persistent_buffers_set
        if module._buffers.get(name) is not None
    }


def _changes_by_itself(owner: nn.Module) -> bool:
    """Rotary embeddings of the dynamic kinds recompute their frequencies while they run."""
    kinds = getattr(owner, "rope_type", None)
    values = kinds.values() if isinstance(kinds, Mapping) else [kinds]
    return any(kind in ("dynamic", "longrope") for kind in values)


def _alike(here: torch.Tensor, fresh: torch.Tensor) -> bool:
    a, b = here.detach().float().cpu(), fresh.to(here.dtype).float()
    close = 1e-5 if here.dtype in (torch.float32, torch.float64) else 1e-2
    return bool(torch.allclose(a, b, rtol=close, atol=1e-8, equal_nan=True))


class _SmallOnly(TorchFunctionMode):
    """While a model is built only for its buffers, large tensors are made on meta. Works in this thread alone."""

    _MAKERS = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full)

    def __torch_function__(self, func: Function, types: object, args: Args = (), kwargs: Named = None) -> object:
        named = dict(kwargs or {})
        if func in self._MAKERS and _numel(named.get("size", args)) > _BIG:
            named["device"] = "meta"
        return func(*args, **named)


def _numel(size: object) -> int:
    """Elements of a tensor of this size, which is given as numbers or as one sequence of them."""
    given = size if isinstance(size, (tuple, list)) else (size,)
    flat = [n for one in given for n in (one if isinstance(one, (tuple, list)) else [one])]
    return math.prod(n for n in flat if isinstance(n, int) and not isinstance(n, bool)) if flat else 0
