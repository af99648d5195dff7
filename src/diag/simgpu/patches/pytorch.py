"""The few places where PyTorch never asks the dispatcher, changed while simulated GPUs are active.

Each function below replaces one public name and hands everything that is not simulated to the original.
"""

import functools
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias

import torch
from torch.types import Device

from diag.errors import DiagError
from diag.simgpu import backend, kernels, memory, private
from diag.simgpu.memory import index_of


def install() -> None:
    """Puts the replacements in place."""
    _share_data()
    _make_storages()
    _follow_accelerator()
    _leave_memory_unpinned()
    _stay_on_the_device()
    _make_generators()
    _share_between_processes()


# -- `param.data = tensor` ---------------------------------------------------------------------------------------------


def _share_data() -> None:
    """`param.data = x` between CPU and simulated tensors, and `module.to(…)`, which uses it.

    PyTorch allows both between the CPU and the device types it knows; the parameter stays the
    same object, which is what keeps tied weights tied.
    """
    original: Any = torch.Tensor.data

    def set_data(self: torch.Tensor, new: torch.Tensor) -> None:
        if isinstance(new, torch.Tensor) and self.device.type != new.device.type and _both_ours(self, new):
            _become(self, new)
        else:
            original.__set__(self, new)

    def check(compatible: Callable[..., bool]) -> Callable[..., bool]:
        # torch._dynamo compares this signature with its own polyfill when it is imported.
        def has_compatible_shallow_copy_type(input: torch.Tensor, from_: torch.Tensor) -> bool:
            return _both_ours(input, from_) or compatible(input, from_)

        return has_compatible_shallow_copy_type

    torch.Tensor.data = property(original.__get__, set_data, original.__delete__)  # type: ignore[assignment]
    private.replace_shallow_copy_check(check)


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
            here = {"device": self.device} if self.device.type == private.NAME else {}
            return original(self, *args, **{**here, **kwargs})

        return make

    torch.Tensor.new_tensor = staying(torch.Tensor.new_tensor)  # type: ignore[method-assign, assignment]
    torch.Tensor.new = staying(torch.Tensor.new)  # type: ignore[method-assign, assignment]


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


# -- tensors between processes -----------------------------------------------------------------------------------------

Reduced: TypeAlias = "tuple[Callable[..., torch.Tensor], tuple[object, ...]]"  # as `object.__reduce__` gives it


def _share_between_processes() -> None:
    """Queues, pipes and data loader workers carry a copy of a tensor's values.

    CUDA shares the memory itself; here the receiving process gets memory of its own on the device of the same number.
    """
    import torch.multiprocessing  # registers PyTorch's own reducers, which ours hand on to

    reducers: dict[type, Callable[..., Reduced]] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    for kind in (torch.Tensor, torch.nn.Parameter):
        ForkingPickler.register(kind, _reducer(reducers[kind]))


def _reducer(original: Callable[..., Reduced]) -> Callable[[torch.Tensor], Reduced]:
    def reduce(tensor: torch.Tensor) -> Reduced:
        if tensor.device.type != private.NAME or (tensor.requires_grad and not tensor.is_leaf):
            return original(tensor)  # PyTorch refuses what a graph holds, on any device
        cpu, index = private.as_cpu(tensor.detach())
        values = cpu.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()  # may outlive the sender
        kind = (tensor.requires_grad, isinstance(tensor, torch.nn.Parameter))
        return arrive, (values, cpu.dtype, tuple(cpu.shape), index, *kind)

    return reduce


def arrive(
    values: bytes, dtype: torch.dtype, shape: tuple[int, ...], index: int, requires_grad: bool, is_parameter: bool
) -> torch.Tensor:
    """The tensor in the process that received it. Raises DiagError where that process simulates no such GPU."""
    if index >= len(memory.capacity) or not memory.capacity[index]:
        raise DiagError(
            f"a tensor of {private.NAME}:{index} arrived in a process that simulates no such GPU.",
            why="a spawned process starts without the simulated hardware of the one that started it.",
            next_step="call diag.simgpu.activate(diag.Hardware.parse('2x24GiB+64GiB')) there first, send tensor.cpu(), "
            "or start it by 'fork'.",
        )
    cpu = torch.frombuffer(bytearray(values), dtype=dtype) if values else torch.empty(0, dtype=dtype, device="cpu")
    tensor = kernels.place(cpu.reshape(shape), index)
    if is_parameter:
        return torch.nn.Parameter(tensor, requires_grad)
    return tensor.requires_grad_(requires_grad)
