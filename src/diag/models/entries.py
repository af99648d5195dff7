"""One tensor of a model as a value, read from the modules that were visited, and what could not be read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from diag.models.backing import RESIDENT, Backing, Device, backing, is_sought_in_vain
from diag.models.hooks import HookIndex
from diag.models.quantizers import Quantizer, quantizer_of
from diag.models.walk import OnFailure, Visit

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
    `can_be_sampled`: its values are here and can be indexed; a class with arithmetic of its own, as DTensor, may ask
    other processes for them. `is_packed`: it holds packed bytes of a quantizer.
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
    can_be_sampled: bool
    is_packed: bool = False


class TensorReader:
    """Reads the parameters and buffers of visited modules, and the quantization state that belongs to them."""

    def __init__(self, index: HookIndex, failed: OnFailure) -> None:
        self._maps, self._inner_maps = index.device_map, index.inner_maps
        self._failed = failed

    def read(self, visits: Iterable[Visit]) -> Iterator[Entry]:
        """Every tensor under each of its names, in the order of the modules."""
        for at in visits:
            try:
                unsaved = at.module._non_persistent_buffers_set
                held: list[tuple[str, str, torch.Tensor | None]] = []
                held += [(name, "parameter", tensor) for name, tensor in at.module._parameters.items()]
                for name, buffer in at.module._buffers.items():
                    held.append((name, "non_persistent_buffer" if name in unsaved else "buffer", buffer))
            except Exception as error:
                self._failed(f"the module {at.path or type(at.module).__name__}", error)
                continue
            for name, kind, tensor in held:
                if tensor is None:
                    continue
                put_in = name in at.names_put_in
                try:
                    quantizer = quantizer_of(tensor)
                    if quantizer is None:
                        yield self._entry(at, name, kind, tensor, put_in)
                    else:
                        yield from self._quantized(quantizer, at, name, kind, tensor, put_in)
                except Exception as error:
                    self._failed(f"{at.prefix}{name}", error)

    def _quantized(
        self, quantizer: Quantizer, at: Visit, name: str, kind: str, tensor: torch.Tensor, put_in: bool
    ) -> Iterator[Entry]:
        quantization, numel = quantizer.name_of(tensor), quantizer.logical_numel(tensor)
        yield self._entry(at, name, kind, tensor, put_in, quantization, numel, quantizer.is_packed(tensor))
        for key, state in quantizer.state_of(at.module, name, tensor) if kind == "parameter" else ():
            yield self._entry(at, key, "quant_state", state, put_in, quantization)

    def _entry(
        self,
        at: Visit,
        name: str,
        kind: str,
        tensor: torch.Tensor,
        put_in: bool,
        quantization: str = "none",
        numel: int | None = None,
        is_packed: bool = False,
    ) -> Entry:
        full, is_meta, serving = f"{at.prefix}{name}", tensor.is_meta, at.serving
        try:
            shape: tuple[int, ...] | None = tuple(tensor.shape)
            nbytes = _stored_bytes(tensor)
        except Exception as error:
            self._failed(f"the size of {full}", error)
            shape, nbytes = None, 0
        is_plain = type(tensor) in _PLAIN or type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
        named = (full, kind, name, at.path, at.module)
        numel = math.prod(shape or ()) if numel is None else numel
        held = (tensor, shape, tensor.dtype, tensor.device, is_meta, numel, nbytes, quantization)
        verdict = backing(serving, name, kind) if is_meta else RESIDENT
        in_vain = bool(serving) and not is_meta and is_sought_in_vain(serving, name, kind)
        mapped = (self._maps.get(full, at.mapped), self._inner_maps.get(full, at.mapped_inside), at.execution_device)
        can_be_sampled = is_plain and not is_meta and shape is not None
        fields = (*named, *held, verdict, in_vain, *mapped, put_in, can_be_sampled, is_packed)
        return Entry(*fields)


def _stored_bytes(tensor: torch.Tensor) -> int:
    """Bytes that this tensor stores; of one whose class wraps others, what those store on this process."""
    flatten = None if type(tensor) in _PLAIN else getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.nbytes
    inner = (getattr(tensor, name) for name in flatten()[0])
    return sum(_stored_bytes(one) for one in inner if isinstance(one, torch.Tensor))
