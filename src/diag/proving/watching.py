"""watch(): stops at the first operation that mixes meta and real data, where PyTorch may go on with random memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from diag.errors import MetaUseError
from diag.models.snapshot import Snapshot, take

# Operations that take a meta tensor for its shape, dtype or place alone, or fill it.
_FINE = {"copy_", "_to_copy", "detach", "set_", "__set__", "to", "type_as", "view_as", "expand_as", "reshape_as"}
_FINE |= {"empty_like", "zeros_like", "ones_like", "is_same_size"}
Function = Callable[..., object]
Args = tuple[object, ...]
Named = Mapping[str, object] | None


@contextlib.contextmanager
def watch(model: nn.Module | None = None) -> Iterator[None]:
    """Raises MetaUseError at the first operation that mixes a meta tensor with real data; names module and operation.

    A healthy offloaded model runs through it unchanged: its hooks bring the data in first. Without it, `matmul` and
    `conv` of a real input and a meta weight return uninitialised memory, and `embedding` a meta tensor. The model
    only gives names to the modules and is not changed. Works in the thread that enters it; costs some microseconds
    per operation.

    >>> with watch():
    ...     torch.ones(2, 2) @ torch.ones(2, 2)
    tensor([[2., 2.],
            [2., 2.]])
    """
    snapshot = None if model is None else take(model)
    mode = _ByFunction() if snapshot is not None and snapshot.accelerator == "simgpu" else _ByOperation()
    mode.check = _Check(snapshot)
    with mode:
        yield


class _ByOperation(TorchDispatchMode):
    """Sees every operation, also those inside others."""

    check: _Check

    def __torch_dispatch__(self, func: Function, types: object, args: Args = (), kwargs: Named = None) -> object:
        schema = getattr(func, "_schema", None)
        self.check(schema.name if schema is not None else str(func), (args, kwargs))
        return func(*args, **(kwargs or {}))


class _ByFunction(TorchFunctionMode):
    """Sees calls from Python: a dispatch mode makes simulated GPUs choose other kernels, with other last bits."""

    check: _Check

    def __torch_function__(self, func: Function, types: object, args: Args = (), kwargs: Named = None) -> object:
        self.check(getattr(func, "__name__", str(func)), (args, kwargs))
        return func(*args, **(kwargs or {}))


class _Check:
    """Raises when a call mixes meta and real data; a number on the CPU (0-dim) goes with every device."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self._names = {} if snapshot is None else snapshot.paths
        self._entries = () if snapshot is None else snapshot.entries

    def __call__(self, name: str, arguments: object) -> None:
        if name.rpartition("::")[2] not in _FINE:
            tensors = [one for one in tree_flatten(arguments)[0] if isinstance(one, torch.Tensor)]
            meta, real = [one for one in tensors if one.is_meta], [one for one in tensors if not one.is_meta]
            if meta and any(one.dim() > 0 or one.device.type != "cpu" for one in real):
                raise self._refusal(name, meta, real)

    def _refusal(self, operation: str, meta: list[torch.Tensor], real: list[torch.Tensor]) -> MetaUseError:
        module, path = self._where()
        wanted = {_storage(one) for one in meta}  # a view, as in a Linear's transposed weight, shares the storage
        named = {_storage(e.tensor): e.name for e in reversed(self._entries) if e.is_meta}
        known = ", ".join(name for storage, name in reversed(named.items()) if storage in wanted)
        devices = ", ".join(sorted({str(one.device) for one in real}))
        place = f"in {path or 'the model'} ({type(module).__name__})" if module is not None else "outside of any module"
        return MetaUseError(
            f"{operation} {place} mixes a meta tensor with data on {devices}.",
            why=f"{known or f'an operand of shape {tuple(meta[0].shape)}'} has no numbers here; "
            "PyTorch may answer with uninitialised memory instead of an error.",
            next_step="diag.diagnose(model, error=exc) says why the data is not there and how to get it.",
        )

    def _where(self) -> tuple[nn.Module | None, str]:
        """The deepest module that is running, found in the frames above this call."""
        frame: FrameType | None = sys._getframe(3)
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and (not self._names or id(module) in self._names):
                return module, self._names.get(id(module), "")
            frame = frame.f_back
        return None, ""


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
