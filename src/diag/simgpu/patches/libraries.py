"""What accelerate, transformers, safetensors and bitsandbytes need to take simulated GPUs for GPUs.

accelerate 1.15 counts devices with `torch.cuda` where it knows no other name, and safetensors opens files only for
devices it knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import torch
from torch.types import Device

from diag.simgpu import backend, dispatch, kernels, memory, private
from diag.simgpu.devices import index_of
from diag.simgpu.patches.imports import after_import

_FAMILY = ("accelerate", "transformers", "safetensors", "peft", "diffusers")


def install() -> None:
    """Replaces `safe_open` and `get_max_memory`, and waits for bitsandbytes and the loading of transformers."""
    import accelerate.utils.modeling as modeling
    import safetensors

    opened: Any = safetensors.safe_open  # its type stub leaves out keys()
    replace_everywhere(opened, safe_open(opened))
    replace_everywhere(modeling.get_max_memory, get_max_memory(modeling.get_max_memory))
    after_import("bitsandbytes", claim_bitsandbytes)
    after_import("transformers.core_model_loading", adopt_what_was_read)


def replace_everywhere(old: Callable[..., object], new: Callable[..., object]) -> None:
    """Rebinds a name in every loaded module of the libraries; modules loaded later take it from there."""
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] not in _FAMILY:
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, attribute, new)


# -- safetensors -------------------------------------------------------------------------------------------------------


class Sliceable(Protocol):
    """A tensor in a file, of which indexing reads a part."""

    def __getitem__(self, index: object, /) -> torch.Tensor: ...


class OpenFile(Protocol):
    """What `safetensors.safe_open` gives, as far as it is used here."""

    def get_tensor(self, name: str) -> torch.Tensor: ...
    def get_slice(self, name: str) -> Sliceable: ...
    def keys(self) -> list[str]: ...
    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> None: ...


def safe_open(original: Callable[..., OpenFile]) -> Callable[..., OpenFile]:
    """`safe_open(…, device="simgpu:1")`: opens on the CPU and moves what is read."""

    def open_file(filename: object, framework: str, device: object = "cpu", **kwargs: object) -> OpenFile:
        target = simulated_device(device)
        if target is None:
            return original(filename, framework=framework, device=device, **kwargs)
        return MovingFile(original(filename, framework=framework, device="cpu", **kwargs), target)

    open_file.__doc__ = original.__doc__
    return open_file


def simulated_device(device: object) -> torch.device | None:
    """The simulated device that a name, a torch.device or a number stands for; None for any other."""
    if isinstance(device, int):
        return torch.device(private.NAME, device) if backend.visible else None
    if str(device).partition(":")[0] != private.NAME:
        return None
    return torch.device(str(device))


class MovingFile:
    """An open safetensors file whose tensors come out on one device."""

    def __init__(self, file: OpenFile, device: torch.device) -> None:
        self._file, self._device = file, device

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name).to(self._device)

    def get_tensors(self) -> dict[str, torch.Tensor]:
        return {name: self.get_tensor(name) for name in self.keys()}

    def keys(self) -> list[str]:
        return self._file.keys()

    def get_slice(self, name: str) -> MovingSlice:
        return MovingSlice(self._file.get_slice(name), self._device)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def __enter__(self) -> MovingFile:
        self._file.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.__exit__(*exc)


class MovingSlice:
    """A part of a safetensors file that is read when indexed, and moved then."""

    def __init__(self, part: Sliceable, device: torch.device) -> None:
        self._part, self._device = part, device

    def __getitem__(self, index: object) -> torch.Tensor:
        return self._part[index].to(self._device)

    def __getattr__(self, name: str) -> object:
        return getattr(self._part, name)


# -- transformers ------------------------------------------------------------------------------------------------------


def adopt_what_was_read(loading: ModuleType) -> None:
    """A weight just read from a file becomes the device's memory instead of being copied to it.

    On the CPU transformers uses the mapped file as the weight, and so does this: a private mapping,
    written pages are the process's own. Without this, reading is merely slower.
    """
    original = getattr(loading, "_materialize_copy", None)
    if original is None:
        return

    def materialize(
        tensor: torch.Tensor | Sliceable, device: Device = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        target = None if device is None or isinstance(tensor, torch.Tensor) else simulated_device(device)
        if target is None:
            return original(tensor, device, dtype)
        read = tensor[...]  # a part of a file: nobody else has this tensor
        if dtype is not None and dtype != read.dtype:
            return read.to(device=target, dtype=dtype)
        return kernels.place(read, index_of(target))

    loading._materialize_copy = materialize  # type: ignore[attr-defined]


# -- accelerate --------------------------------------------------------------------------------------------------------

MaxMemory: TypeAlias = dict[int | str, int | str]


def get_max_memory(original: Callable[[MaxMemory | None], MaxMemory]) -> Callable[..., MaxMemory]:
    """What `device_map="auto"` plans with: free bytes of each simulated GPU, then the host."""

    def plan_with(max_memory: MaxMemory | None = None) -> MaxMemory:
        if not backend.visible:
            return original(max_memory)
        if max_memory is None:
            max_memory = {index: memory.free(index) for index in range(backend.visible)}
            max_memory["cpu"] = memory.host_bytes(memory.host)
        gpus = sorted(key for key in max_memory if isinstance(key, int) and key < backend.visible)
        in_bytes: MaxMemory = {index: _as_bytes(max_memory[index]) for index in gpus}
        # The original warns for every GPU it does not know; it checks and orders the rest.
        return {**in_bytes, **original({key: size for key, size in max_memory.items() if key not in in_bytes})}

    plan_with.__doc__ = original.__doc__
    return plan_with


def _as_bytes(size: int | str) -> int:
    from accelerate.utils.modeling import convert_file_size_to_int

    return convert_file_size_to_int(size) if isinstance(size, str) else size


# -- bitsandbytes ------------------------------------------------------------------------------------------------------


def claim_bitsandbytes(_: ModuleType) -> None:
    """Runs all its operations as on the CPU; on a device it does not know some take a road with other bits."""
    names = private.names_with_kernel("CompositeExplicitAutograd") | private.names_with_kernel("CPU")
    own = {name for name in names if name.startswith("bitsandbytes::")}
    dispatch.register(dispatch.library_for("bitsandbytes"), own)
