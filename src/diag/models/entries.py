"""One tensor of a model as a value, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from diag.models.hooks import Backing, Device

_PLAIN = (torch.Tensor, nn.Parameter)


@dataclass(frozen=True)
class Unreadable:
    """A part of a model that could not be read, and the error that said so."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"not looked at: {self.what} ({self.why})"

    @classmethod
    def because(cls, what: str, error: Exception) -> Unreadable:
        """With the error's class and the first line of what it says."""
        said = next(iter(str(error).strip().splitlines()), "")
        return cls(what, f"{type(error).__name__}: {said}" if said else type(error).__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor under one of its names, as it was when the model was read.

    `kind` is `parameter`, `buffer`, `non_persistent_buffer` or `quant_state`; `shape` is None where the tensor has none
    yet, as in a lazy layer. `numel` is logical, `nbytes` what this tensor alone stores. `mapped_device` is what the
    model's own map says, `mapped_inside` what the map of a model inside says, `execution_device` where a hook runs it;
    all three as they are held, None without. `put_in` says that an adapter or a parametrization put it there.
    """

    name: str
    kind: str
    local_name: str
    module_path: str
    owner: nn.Module
    tensor: torch.Tensor
    shape: tuple[int, ...] | None
    dtype: torch.dtype
    device: torch.device
    is_meta: bool
    numel: int
    nbytes: int
    quantization: str
    backing: Backing
    is_sought_in_vain: bool
    mapped_device: Device | None
    mapped_inside: Device | None
    execution_device: Device | None
    put_in: bool

    @property
    def dtype_text(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def can_be_sampled(self) -> bool:
        """Whether its values are here and can be indexed; a class with its own arithmetic may ask other processes."""
        return not self.is_meta and self.shape is not None and not has_own_dispatch(self.tensor)


def has_own_dispatch(tensor: torch.Tensor) -> bool:
    """Whether the tensor's class does its own arithmetic, as DTensor and torchao's do."""
    return type(tensor) not in _PLAIN and type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def stored_bytes(tensor: torch.Tensor) -> int:
    """Bytes that this tensor stores; of one whose class wraps others, what those store on this process."""
    flatten = None if type(tensor) in _PLAIN else getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.nbytes
    inner = (getattr(tensor, name) for name in flatten()[0])
    return sum(stored_bytes(one) for one in inner if isinstance(one, torch.Tensor))
