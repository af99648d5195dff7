"""What accelerate, transformers, safetensors and bitsandbytes need to take simulated GPUs for GPUs.

accelerate 1.15 counts devices with `torch.cuda` where it knows no other name, and safetensors opens files only for
devices it knows.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch.types import Device

from diag.simgpu import backend, dispatch, kernels, memory, private
from diag.simgpu.memory import index_of

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


def after_import(name: str, act: Callable[[ModuleType], None]) -> None:
    """Calls `act` with the module: now if it is loaded, otherwise right after its first import."""
    if name in sys.modules:
        act(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Watcher(name, act))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing itself; lets the real finders find one module and acts when it has run."""

    def __init__(self, name: str, act: Callable[[ModuleType], None]) -> None:
        self.name, self.act = name, act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        # Asking for a spec does not import anything, and libraries ask: stay until the module has run.
        if fullname != self.name:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self.act(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


# -- safetensors -------------------------------------------------------------------------------------------------------


def safe_open(original: Callable[..., object]) -> Callable[..., object]:
    """`safe_open(…, device="simgpu:1")`: opens on the CPU and moves what is read."""

    def open_file(filename: object, framework: str, device: object = "cpu", **kwargs: object) -> object:
        target = simulated_device(device)
        if target is None:
            return original(filename, framework=framework, device=device, **kwargs)
        return Moving(original(filename, framework=framework, device="cpu", **kwargs), target)

    open_file.__doc__ = original.__doc__
    return open_file


def simulated_device(device: object) -> torch.device | None:
    """The simulated device that a name, a torch.device or a number stands for; None for any other."""
    if isinstance(device, int):
        return torch.device(private.NAME, device) if backend.visible else None
    if str(device).partition(":")[0] != private.NAME:
        return None
    return torch.device(str(device))


class Moving:
    """An open safetensors file, or a slice of one, whose tensors come out on one device."""

    def __init__(self, inner: Any, device: torch.device) -> None:
        self._inner, self._device = inner, device

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._inner.get_tensor(name).to(self._device)

    def get_tensors(self) -> dict[str, torch.Tensor]:
        names = self._inner.keys()
        return {name: self.get_tensor(name) for name in names}

    def get_slice(self, name: str) -> Moving:
        return Moving(self._inner.get_slice(name), self._device)

    def __getitem__(self, index: object) -> torch.Tensor:
        return self._inner[index].to(self._device)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def __enter__(self) -> Moving:
        self._inner.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._inner.__exit__(*exc)


# -- transformers ------------------------------------------------------------------------------------------------------


def adopt_what_was_read(loading: ModuleType) -> None:
    """A weight just read from a file becomes the device's memory instead of being copied to it.

    On the CPU transformers uses the mapped file as the weight, and so does this: a private mapping,
    written pages are the process's own. Without this, reading is merely slower.
    """
    original = getattr(loading, "_materialize_copy", None)
    if original is None:
        return

    def materialize(tensor: Any, device: Device = None, dtype: torch.dtype | None = None) -> torch.Tensor:
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
        from accelerate.utils.modeling import convert_file_size_to_int as to_bytes

        if max_memory is None:
            max_memory = {index: memory.free(index) for index in range(backend.visible)}
            max_memory["cpu"] = memory.host_bytes(memory.host)
        gpus = sorted(key for key in max_memory if isinstance(key, int) and key < backend.visible)
        sizes = ((index, max_memory[index]) for index in gpus)  # quantizers of transformers make them fractions
        in_bytes: MaxMemory = {index: to_bytes(size) if isinstance(size, str) else size for index, size in sizes}
        # The original warns for every GPU it does not know; it checks and orders the rest.
        return {**in_bytes, **original({key: size for key, size in max_memory.items() if key not in in_bytes})}

    plan_with.__doc__ = original.__doc__
    return plan_with


# -- bitsandbytes ------------------------------------------------------------------------------------------------------


def claim_bitsandbytes(_: ModuleType) -> None:
    """Runs all its operations as on the CPU; on a device it does not know some take a road with other bits."""
    names = private.names_with_kernel("CompositeExplicitAutograd") | private.names_with_kernel("CPU")
    own = {name for name in names if name.startswith("bitsandbytes::")}
    dispatch.register(dispatch.library_for("bitsandbytes"), own)
