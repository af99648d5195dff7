"""Every private PyTorch interface that simulated GPUs stand on, and the versions they were tried with.

Nothing else in the package touches a name of PyTorch that starts with an underscore on behalf of the simulation.
`check_torch` raises one DiagError elsewhere; `tests/simgpu/test_private.py` fails when an interface changes.
"""

import ctypes
import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, TypeAlias

import torch

from diag.errors import DiagError

TESTED_TORCH = ("2.13",)
NAME = "simgpu"
MAX_DEVICES = 64
Op: TypeAlias = "torch._ops.OpOverload"

# Below `torch`.
_INTERFACES = (
    "_C._to_dlpack _C._from_dlpack _C._swap_tensor_impl _has_compatible_shallow_copy_type "
    "_C._get_privateuse1_backend_name _C._dispatch_get_registrations_for_dispatch_key "
    "_C._dispatch_has_kernel_for_dispatch_key _C._should_allow_numbers_as_tensors _C._len_torch_dispatch_stack "
    "_C._disabled_torch_dispatch_impl _C._ExcludeDispatchKeyGuard _C.DispatchKey.AutocastPrivateUse1 "
    "_C._acc.PrivateUse1Hooks _C._acc.DeviceGuard _C._acc.register_python_privateuseone_hook "
    "_C._acc.register_python_privateuseone_device_guard autograd.graph._engine_run_backward "
    "autograd._engine_run_backward utils.backend_registration._setup_privateuseone_for_python_backend"
).split()


def missing_interfaces(names: Iterable[str] = _INTERFACES) -> list[str]:
    """The private names that this PyTorch no longer has; empty on a tested version."""
    import torch.utils.backend_registration

    def reachable(name: str) -> bool:
        top: object = torch
        return functools.reduce(lambda here, part: getattr(here, part, None), name.split("."), top) is not None

    return [f"torch.{name}" for name in names if not reachable(name)]


def check_torch(version: str | None = None) -> None:
    """Raises one DiagError on a PyTorch that simulated GPUs were not tested with."""
    version = torch.__version__ if version is None else version
    missing = missing_interfaces()
    if ".".join(version.split(".")[:2]) in TESTED_TORCH and not missing:
        return
    why = f"they use private interfaces of PyTorch, tested with {', '.join(TESTED_TORCH)}."
    if missing:
        why += f" Missing here: {', '.join(missing)}."
    next_step = f"install torch=={TESTED_TORCH[-1]}.*, or leave out `hardware` to use this machine."
    raise DiagError(f"simulated GPUs do not work with torch {version}.", why=why, next_step=next_step)


def register(module: ModuleType, available: Callable[[], bool]) -> None:
    """Registers the device type `simgpu` in this process. It can't be undone."""
    from torch.utils import backend_registration

    taken_by = torch._C._get_privateuse1_backend_name()
    if taken_by != "privateuseone":
        what = f"simulated GPUs can't be registered: the device type {taken_by!r} is already here."
        why = "PyTorch has one slot for a device type from outside, and another library uses it."
        raise DiagError(what, why=why, next_step=f"use a process that does not load {taken_by!r}.")

    class Hooks(torch._C._acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return available()

        def is_built(self) -> bool:
            return True

        def has_primary_context(self, device_index: int) -> bool:
            return True

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=module, hook=Hooks())


# -- one piece of memory, two device labels ----------------------------------------------------------------------------
# DLPack describes memory; PyTorch makes the description of a CPU tensor and its deleter, and we change the device
# written in it before PyTorch reads it back. No byte is copied; PyTorch's own C++ code releases the memory.

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_LABEL = 8  # offset in DLTensor: void* data; then {int32 device_type; int32 device_id}
_CPU = 1  # kDLCPU, device 0
_SIMULATED = 12  # kDLExtDev


_to_dlpack, _from_dlpack, _word = torch._C._to_dlpack, torch._C._from_dlpack, ctypes.c_int64.from_address


def as_cpu(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The CPU tensor over the memory of a simulated one, which it keeps alive, and the index of its device."""
    capsule = _to_dlpack(tensor)
    label = _word(_pointer(capsule, b"dltensor") + _LABEL)
    value = label.value
    if value & 0xFFFFFFFF != _SIMULATED:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME} and {tensor.device}!"
        )
    label.value = _CPU
    view = _from_dlpack(capsule)
    if tensor.is_conj():
        view = view.conj()
    if tensor.is_neg():
        view = view._neg_view()
    return view, value >> 32


def as_simulated(tensor: torch.Tensor, index: int) -> torch.Tensor:
    """The tensor on `simgpu:<index>` over the memory of a CPU tensor, which it keeps alive."""
    capsule = _to_dlpack(tensor)
    _word(_pointer(capsule, b"dltensor") + _LABEL).value = (index << 32) | _SIMULATED
    return _from_dlpack(capsule)


def swap(a: torch.Tensor, b: torch.Tensor) -> None:
    """Exchanges what two Python tensors stand for. RuntimeError when C++ also holds one of them."""
    torch._C._swap_tensor_impl(a, b)


def set_memory(tensor: torch.Tensor, new: torch.Tensor) -> None:
    """Makes a tensor stand for the memory and shape of another on the same device."""
    torch.ops.aten.set_.source_Tensor.redispatch(_CPU_KEYS, tensor, new)


def replace_shallow_copy_check(make: Callable[[Callable[..., bool]], Callable[..., bool]]) -> None:
    """Puts what `make` makes of it in place of what `Module.to` asks before it changes `param.data` in place."""
    torch._has_compatible_shallow_copy_type = make(torch._has_compatible_shallow_copy_type)  # type: ignore[assignment]


# -- operations --------------------------------------------------------------------------------------------------------

_CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def metadata_kernel(op: Op) -> Callable[..., torch.Tensor]:
    """PyTorch's own CPU kernel of a view operation, for tensors of any device: it reads no data."""
    return functools.partial(op.redispatch, _CPU_KEYS)


def bound(op: Op) -> Callable[..., Any]:
    """The operation without the Python layer above it."""
    return op._op


def names_with_kernel(key: str) -> set[str]:
    """Qualified names, `aten::add.Tensor`, of the operations that have a kernel for a dispatch key."""
    return set(torch._C._dispatch_get_registrations_for_dispatch_key(key))


def has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def takes_numbers(op: Op) -> bool:
    """Whether the operation accepts a Python number where its schema says Tensor."""
    return torch._C._should_allow_numbers_as_tensors(schema(op).name.split("::")[1])


def schema(op: Op) -> torch._C.FunctionSchema:
    return op._schema


def name_of(op: Op) -> str:
    """Its qualified name with the overload, `aten::add.Tensor`; without one where it has a single one."""
    return op.name()


@functools.cache
def is_plain(kind: type) -> bool:
    """Whether tensors of this class hold memory themselves; a FakeTensor, say, answers for itself."""
    return getattr(kind, "__torch_dispatch__", None) is torch._C._disabled_torch_dispatch_impl


def below_autocast() -> AbstractContextManager[None]:
    """`with below_autocast():` operations are not cast again."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]
    return torch._C._ExcludeDispatchKeyGuard(keys)


def modes_are_watching() -> bool:
    """Whether a TorchDispatchMode would see operations run from here."""
    return torch._C._len_torch_dispatch_stack() > 0


# -- autograd ----------------------------------------------------------------------------------------------------------

Backward: TypeAlias = Callable[..., tuple[torch.Tensor, ...]]
NO_QUEUE = "device_ready_queues_"  # in the assertion that a second simulated device runs into


def replace_engine(make: Callable[[Backward], Backward]) -> None:
    """Puts what `make` makes of it in place of what `Tensor.backward` and `torch.autograd.grad` call."""
    run = make(torch.autograd.graph._engine_run_backward)
    torch.autograd.graph._engine_run_backward = run
    torch.autograd._engine_run_backward = run  # type: ignore[attr-defined]
