"""What accelerate, transformers, safetensors and bitsandbytes need to take simulated GPUs for GPUs.

accelerate 1.15 counts devices with `torch.cuda` where it knows no other name, and safetensors
opens files only for devices it knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from diag.simgpu import dispatch, kernels, private
from diag.simgpu.module import backend
from diag.simgpu.patches.imports import after_import

_FAMILY = ("accelerate", "transformers", "safetensors", "peft", "diffusers")


def install() -> None:
    """Replaces `safe_open` and `get_max_memory`, and waits for bitsandbytes."""
    import accelerate.utils.modeling as modeling
    import safetensors

    replace_everywhere(safetensors.safe_open, safe_open(safetensors.safe_open))
    replace_everywhere(modeling.get_max_memory, get_max_memory(modeling.get_max_memory))
    after_import("bitsandbytes", claim_bitsandbytes)
    after_import("transformers.core_model_loading", adopt_what_was_read)


def replace_everywhere(old: Any, new: Any) -> None:
    """Rebinds a name in every loaded module of the libraries; modules loaded later take it from there."""
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] not in _FAMILY:
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, attribute, new)


# -- safetensors ---------------------------------------------------------------------------------


def safe_open(original: Callable[..., Any]) -> Callable[..., Any]:
    """`safe_open(…, device="simgpu:1")`: opens on the CPU and moves what is read."""

    def open_file(filename: Any, framework: str, device: Any = "cpu", **kwargs: Any) -> Any:
        target = simulated_device(device)
        if target is None:
            return original(filename, framework=framework, device=device, **kwargs)
        return MovingFile(original(filename, framework=framework, device="cpu", **kwargs), target)

    open_file.__doc__ = original.__doc__
    return open_file


def simulated_device(device: Any) -> torch.device | None:
    """The simulated device that a name, a torch.device or a number stands for; None for any other."""
    if isinstance(device, int):
        return torch.device(private.NAME, device) if backend.visible else None
    if str(device).partition(":")[0] != private.NAME:
        return None
    return torch.device(device)


class MovingFile:
    """An open safetensors file whose tensors come out on one device."""

    def __init__(self, file: Any, device: torch.device) -> None:
        self._file, self._device = file, device

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name).to(self._device)

    def get_tensors(self) -> dict[str, torch.Tensor]:
        return {name: self.get_tensor(name) for name in self._file.keys()}  # noqa: SIM118

    def get_slice(self, name: str) -> MovingSlice:
        return MovingSlice(self._file.get_slice(name), self._device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> MovingFile:
        self._file.__enter__()
        return self

    def __exit__(self, *exc: Any) -> Any:
        return self._file.__exit__(*exc)


class MovingSlice:
    """A part of a safetensors file that is read when indexed, and moved then."""

    def __init__(self, part: Any, device: torch.device) -> None:
        self._part, self._device = part, device

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._part[index].to(self._device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


# -- transformers --------------------------------------------------------------------------------


def adopt_what_was_read(loading: ModuleType) -> None:
    """A weight just read from a file becomes the device's memory instead of being copied to it.

    On the CPU transformers uses the mapped file as the weight, and so does this: a private mapping,
    written pages are the process's own. Without this, reading is merely slower.
    """
    original = getattr(loading, "_materialize_copy", None)
    if original is None:
        return

    def materialize(tensor: Any, device: Any = None, dtype: Any = None) -> torch.Tensor:
        target = None if device is None or isinstance(tensor, torch.Tensor) else simulated_device(device)
        if target is None:
            return original(tensor, device, dtype)
        read = tensor[...]  # a part of a file: nobody else has this tensor
        if dtype is not None and dtype != read.dtype:
            return read.to(device=target, dtype=dtype)
        return kernels.place(read, backend.index(target))

    loading._materialize_copy = materialize  # type: ignore[attr-defined]


# -- accelerate ----------------------------------------------------------------------------------


def get_max_memory(original: Callable[..., Any]) -> Callable[..., Any]:
    """What `device_map="auto"` plans with: free bytes of each simulated GPU, then the host."""

    def plan_with(max_memory: dict[Any, Any] | None = None) -> dict[Any, Any]:
        if not backend.visible:
            return original(max_memory)
        gpus = {k: v for k, v in (max_memory or {}).items() if isinstance(k, int) and k < backend.visible}
        rest = {k: v for k, v in (max_memory or {}).items() if k not in gpus}
        if max_memory is None:
            from diag.simgpu import host_bytes

            gpus = {index: backend.mem_get_info(index)[0] for index in range(backend.visible)}
            rest = {"cpu": host_bytes()}
        # The original warns for every GPU it does not know; it checks and orders the rest.
        return {**_in_bytes(gpus), **original(rest)}

    plan_with.__doc__ = original.__doc__
    return plan_with


def _in_bytes(sizes: dict[int, Any]) -> dict[int, int]:
    from accelerate.utils.modeling import convert_file_size_to_int

    in_order = {index: sizes[index] for index in sorted(sizes)}
    return {k: convert_file_size_to_int(v) if isinstance(v, str) else v for k, v in in_order.items()}


# -- bitsandbytes --------------------------------------------------------------------------------


def claim_bitsandbytes(_: ModuleType) -> None:
    """Runs all its operations as on the CPU; on a device it does not know some take a road with other bits."""
    names = private.names_with_kernel("CompositeExplicitAutograd") | private.names_with_kernel("CPU")
    library = dispatch.keep(torch.library.Library("bitsandbytes", "IMPL"))
    dispatch.register(library, {name for name in names if name.startswith("bitsandbytes::")})
