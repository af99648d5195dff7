"""Registers the kernels: one fallback for everything, and direct ones where PyTorch would take another road.

Where an operation has both a CPU kernel and a composite one (made of other operations), a device
that PyTorch does not know gets the composite. The CPU kernel is registered instead: it is faster
and gives the bits of the CPU model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from diag.simgpu import kernels, private, special

_COMPOSITES = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd")

# Composite on every device, but the composition asks for the device type on the way
# (attention backends, fused layouts). Run in one step where no gradient is asked for.
_WHOLE = (
    "linear.default", "matmul.default", "scaled_dot_product_attention.default",
    "lstm.input", "lstm.data", "gru.input", "gru.data",
    "rnn_tanh.input", "rnn_tanh.data", "rnn_relu.input", "rnn_relu.data",
)  # fmt: skip

# The same, below autograd: their gradients are operations of their own.
_DIRECT = {"aten::convolution", "aten::convolution_backward", "aten::linalg_lstsq"}

_CAST_DOWN = (
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "scaled_dot_product_attention",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input",
)  # fmt: skip

_OTHER_LAYOUTS = ("SparsePrivateUse1", "SparseCsrPrivateUse1", "NestedTensorPrivateUse1", "QuantizedPrivateUse1")

_kernels: dict[Any, Callable[..., Any]] = dict(special.KERNELS)
_libraries: list[torch.library.Library] = []  # a library takes its kernels back when it dies


def kernel_of(op: Any) -> Callable[..., Any]:
    kernel = _kernels.get(op)
    if kernel is None:
        kernel = _kernels[op] = kernels.compile_kernel(op)
    return kernel


def fallback(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation that has no kernel of its own for simulated tensors."""
    kernel = _kernels.get(op)
    if kernel is None:
        kernel = kernel_of(op)
    return kernel(*args, **kwargs)


def refuse_layout(op: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError(f"{private.NAME} holds dense tensors only; {op} would make or read another layout.")


def install() -> None:
    """Registers everything for the life of the process."""
    everything = keep(torch.library.Library("_", "IMPL"))
    everything.fallback(fallback, "PrivateUse1")
    library = keep(torch.library.Library("aten", "IMPL"))
    register(library, with_two_roads())
    for name in _WHOLE:
        op = find_op(f"aten::{name}")
        for key in ("AutogradPrivateUse1", "PrivateUse1"):
            library.impl(name.removesuffix(".default"), whole(op), key)
    follow_autocast()
    for key in _OTHER_LAYOUTS:
        keep(torch.library.Library("_", "IMPL")).fallback(refuse_layout, key)


def follow_autocast() -> None:
    """`torch.autocast("simgpu")`: the operations that any GPU casts down, and nothing else."""
    keep(torch.library.Library("_", "IMPL")).fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    library = keep(torch.library.Library("aten", "IMPL"))
    for name in _CAST_DOWN:
        library.impl(name, casting(find_op(f"aten::{name}")), "AutocastPrivateUse1")


def casting(op: Any) -> Callable[..., Any]:
    """The operation with its float32 arguments in autocast's dtype."""

    def cast(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype is torch.float32:
            return value.to(torch.get_autocast_dtype(private.NAME))
        return value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with private.below_autocast():
            return op(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    return kernel


def keep(library: torch.library.Library) -> torch.library.Library:
    """Holds a library for the life of the process; its kernels are gone when it dies."""
    _libraries.append(library)
    return library


def with_two_roads() -> set[str]:
    """Operations with a CPU kernel that PyTorch would not take for another device, and the special ones."""
    composite = set().union(*(private.names_with_kernel(key) for key in _COMPOSITES))
    chosen = private.names_with_kernel("CPU") & composite
    chosen |= {private.schema(op).name + _dot(op) for op in special.KERNELS}
    return {name for name in chosen if name.startswith("aten::")} | _DIRECT


def register(library: torch.library.Library, names: set[str]) -> None:
    """Gives each named operation its kernel for simulated tensors, once."""
    for name in sorted(names):
        op = find_op(name)
        if op is not None and not private.has_kernel(name, "PrivateUse1"):
            library.impl(name.split("::")[1], kernel_of(op), "PrivateUse1")


def _dot(op: Any) -> str:
    overload = private.schema(op).overload_name
    return f".{overload}" if overload else ""


def find_op(name: str) -> Any | None:
    """`aten::add.Tensor` as the callable `torch.ops.aten.add.Tensor`; None where there is none."""
    namespace, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), base, None)
    return getattr(packet, overload or "default", None)


def whole(op: Any) -> Callable[..., Any]:
    """A composite operation in one step, if nothing asks for its parts: no gradient, no mode, one device."""
    run, alone = private.bound(op), kernels.gather_alone(op)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if private.modes_are_watching() or (kwargs and _holds_tensors(kwargs)):
            return op.decompose(*args, **kwargs)
        given, index = alone(args)
        if given is None:
            return op.decompose(*args, **kwargs)
        return kernels.wrap(run(*given, **kwargs), index)

    return kernel


def _holds_tensors(kwargs: dict[str, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in kwargs.values())
