"""The few places where PyTorch never asks the dispatcher, changed while simulated GPUs are active.

Each function below replaces one public name and hands everything that is not simulated to the original.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.types import Device

from diag.errors import DiagError
from diag.simgpu import backend, kernels, private
from diag.simgpu.devices import index_of


def install() -> None:
    """Puts the replacements in place."""
    _share_data()
    _make_storages()
    _follow_accelerator()
    _leave_memory_unpinned()
    _stay_on_the_device()
    _make_generators()


# -- `param.data = tensor` ---------------------------------------------------------------------------------------------


def _share_data() -> None:
    """`param.data = x` between CPU and simulated tensors, and `module.to(…)`, which uses it.

    PyTorch allows both between the CPU and the device types it knows; the parameter stays the
    same object, which is what keeps tied weights tied.
    """
    original: Any = torch.Tensor.data
    compatible = private.shallow_copy_check()

    def set_data(self: torch.Tensor, new: torch.Tensor) -> None:
        if isinstance(new, torch.Tensor) and self.device.type != new.device.type and _both_ours(self, new):
            _become(self, new)
        else:
            original.__set__(self, new)

    # torch._dynamo compares this signature with its own polyfill when it is imported.
    def has_compatible_shallow_copy_type(input: torch.Tensor, from_: torch.Tensor) -> bool:
        return _both_ours(input, from_) or compatible(input, from_)

    torch.Tensor.data = property(original.__get__, set_data, original.__delete__)  # type: ignore[assignment]
    private.replace_shallow_copy_check(has_compatible_shallow_copy_type)


def _both_ours(a: torch.Tensor, b: torch.Tensor) -> bool:
    return {a.device.type, b.device.type} <= {"cpu", private.NAME} and a.layout is b.layout is torch.strided


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")  # they belong to the object, not to its memory


def _become(tensor: torch.Tensor, new: torch.Tensor) -> None:
    """Makes `tensor` stand for the memory of `new`, on its device, and stay the same Python object."""
    twin, hooks = new.detach(), {name: getattr(tensor, name, None) for name in _HOOKS}
    twin.requires_grad_(tensor.requires_grad and (twin.is_floating_point() or twin.is_complex()))
    grad = tensor.grad
    if grad is not None and grad.device == new.device:
        twin.grad = grad
    try:
        private.swap(tensor, twin)
    except RuntimeError as error:
        raise DiagError(
            f"this tensor can't be given data on {new.device} in place; it stays on {tensor.device}.",
            why="a running computation (a graph for backward) still holds it.",
            next_step="finish or drop that computation first, or assign a new parameter to the module.",
        ) from error
    for name, registered in hooks.items():
        if registered:
            setattr(tensor, name, registered)


# -- storages ----------------------------------------------------------------------------------------------------------


def _make_storages() -> None:
    """`torch.UntypedStorage(…, device="simgpu:0")`, and with it cloning, deepcopy and torch.load."""
    storage = torch.UntypedStorage
    make, make_like, resize = storage.__new__, storage.new, storage.resize_

    def new(cls: type, *args: object, device: Device = None, **kwargs: object) -> torch.UntypedStorage:
        if device is None or torch.device(device).type != private.NAME:
            return make(cls, *args, **kwargs, **({} if device is None else {"device": device}))
        here = torch.empty(0, dtype=torch.uint8, device="cpu").set_(make(cls, *args, **kwargs))
        return kernels.place(here, index_of(device)).untyped_storage()

    def new_like(self: torch.UntypedStorage) -> object:
        return type(self)(0, device=self.device) if self.device.type == private.NAME else make_like(self)

    def resize_(self: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        if self.device.type != private.NAME:
            return resize(self, size)
        if size == self.nbytes():
            return self
        raise NotImplementedError(
            f"a storage on {self.device} keeps its {self.nbytes()} bytes; resize the tensor instead: tensor.resize_(…)."
        )

    def simgpu(
        self: torch.UntypedStorage | torch.TypedStorage, device: Device = None, non_blocking: bool = False
    ) -> object:
        return self.to(device=torch.device(private.NAME, index_of(device)), non_blocking=non_blocking)

    ours = {"__new__": staticmethod(new), "new": new_like, "resize_": resize_, "simgpu": simgpu}
    for name, method in ours.items():
        setattr(storage, name, method)
    torch.TypedStorage.simgpu = simgpu  # type: ignore[attr-defined]


# -- torch.accelerator -------------------------------------------------------------------------------------------------


_own_accelerator: list[torch.device | None] = [None]


def remember_accelerator() -> None:
    """Notes what this machine itself has, before the simulated devices stand in its place."""
    _own_accelerator[0] = torch.accelerator.current_accelerator()


def _follow_accelerator() -> None:
    """`torch.accelerator.*`: PyTorch asks C++ for these, and a Python device has no C++ part."""
    original = torch.accelerator.current_accelerator

    @functools.wraps(original)
    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return torch.device(private.NAME) if backend.visible else _own_accelerator[0]

    torch.accelerator.current_accelerator = current_accelerator
    for name, ours in _ACCELERATOR.items():
        if hasattr(torch.accelerator, name):
            replacement = _while_visible(getattr(torch.accelerator, name), ours)
            setattr(torch.accelerator, name, replacement)
            if hasattr(torch.accelerator.memory, name):
                setattr(torch.accelerator.memory, name, replacement)


# Functions of torch.accelerator that the backend module has under the same name, and under another one.
_SAME_NAME = (
    "synchronize empty_cache empty_host_cache get_memory_info memory_allocated memory_reserved memory_stats "
    "max_memory_allocated max_memory_reserved reset_peak_memory_stats reset_accumulated_memory_stats"
).split()
_ACCELERATOR: dict[str, Callable[..., object]] = {
    **{name: getattr(backend, name) for name in _SAME_NAME},
    "current_device_index": backend.current_device,
    "current_device_idx": backend.current_device,
    "set_device_index": backend.set_device,
    "set_device_idx": backend.set_device,
    "device_index": backend.device,
}


def _while_visible(original: Callable[..., object], ours: Callable[..., object]) -> Callable[..., object]:
    def choose(*args: object, **kwargs: object) -> object:
        return (ours if backend.visible else original)(*args, **kwargs)

    choose.__name__ = getattr(original, "__name__", "choose")
    choose.__doc__ = original.__doc__
    return choose


# -- pinned memory -----------------------------------------------------------------------------------------------------


def _leave_memory_unpinned() -> None:
    """`tensor.pin_memory()` answers the tensor itself: all memory here is the CPU's."""
    original = torch.Tensor.pin_memory

    def pin_memory(self: torch.Tensor, device: Device = None) -> torch.Tensor:
        return self if self.is_cpu and backend.visible else original(self, device)

    torch.Tensor.pin_memory = pin_memory  # type: ignore[method-assign, assignment]


# -- `tensor.new_tensor(…)` --------------------------------------------------------------------------------------------


def _stay_on_the_device() -> None:
    """`new_tensor` and `new` of a tensor on simgpu:1 land there; PyTorch asks C++ for the current device."""

    def staying(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(original)
        def make(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
            if self.device.type == private.NAME:
                kwargs.setdefault("device", self.device)
            return original(self, *args, **kwargs)

        return make

    for name in ("new_tensor", "new"):
        setattr(torch.Tensor, name, staying(getattr(torch.Tensor, name)))


# -- torch.Generator ---------------------------------------------------------------------------------------------------


def _make_generators() -> None:
    """`torch.Generator(device="simgpu:0")` gives one of the CPU: random numbers here are the CPU's."""
    original: Any = torch.Generator

    class SameClass(type(original)):  # type: ignore[misc]
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, original)

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, original)

    class Generator(original, metaclass=SameClass):
        __doc__ = original.__doc__

        def __new__(cls, device: str | int | torch.device = "cpu") -> torch.Generator:  # type: ignore[misc]
            simulated = torch.device(device).type == private.NAME
            return original(device="cpu" if simulated else device)

    Generator.__module__, Generator.__qualname__ = "torch", "Generator"  # where pickle looks for it
    torch.Generator = Generator  # type: ignore[misc, assignment]
