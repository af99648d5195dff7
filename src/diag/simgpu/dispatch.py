"""Registers the kernels: one fallback for everything, and direct ones where PyTorch would take another road.

Where an operation has both a CPU kernel and a composite one (made of other operations), a device that PyTorch does not
know gets the composite. The CPU kernel is registered instead: it is faster and gives the bits of the CPU model.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NoReturn

import torch

from diag.simgpu import kernels, private, special
from diag.simgpu.kernels import Kernel
from diag.simgpu.private import Op

_COMPOSITES = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd")

# Composite on every device, but the composition asks for the device type on the way (attention backends, fused
# layouts). Run in one step where no gradient is asked for.
_WHOLE = (
    "linear matmul scaled_dot_product_attention lstm.input lstm.data gru.input gru.data "
    "rnn_tanh.input rnn_tanh.data rnn_relu.input rnn_relu.data"
).split()

# The same, below autograd: their gradients are operations of their own.
_DIRECT = {"aten::convolution", "aten::convolution_backward", "aten::linalg_lstsq"}

_CAST_DOWN = (
    "linear matmul mm bmm addmm baddbmm addbmm mv addmv scaled_dot_product_attention "
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input conv_transpose3d.input"
).split()

_OTHER_LAYOUTS = ("SparsePrivateUse1", "SparseCsrPrivateUse1", "NestedTensorPrivateUse1", "QuantizedPrivateUse1")

_libraries: list[torch.library.Library] = []  # a library takes its kernels back when it dies


@functools.cache
def kernel_of(op: Op) -> Kernel:
    return special.KERNELS.get(op) or kernels.compile_kernel(op)


def fallback(op: Op, *args: object, **kwargs: object) -> object:
    """Any operation that has no kernel of its own for simulated tensors."""
    return kernel_of(op)(*args, **kwargs)


def refuse_layout(op: Op, *args: object, **kwargs: object) -> NoReturn:
    raise NotImplementedError(f"{private.NAME} holds dense tensors only; {op} would make or read another layout.")


def install() -> None:
    """Registers everything for the life of the process."""
    library_for("_").fallback(fallback, "PrivateUse1")
    aten = library_for("aten")
    register(aten, with_two_roads())
    for name, op in found("aten", _WHOLE):
        for key in ("AutogradPrivateUse1", "PrivateUse1"):
            aten.impl(name, whole(op), key)
    library_for("_").fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name, op in found("aten", _CAST_DOWN):  # what any GPU casts down under `torch.autocast`, and nothing else
        aten.impl(name, casting(op), "AutocastPrivateUse1")
    for key in _OTHER_LAYOUTS:
        library_for("_").fallback(refuse_layout, key)


def library_for(namespace: str) -> torch.library.Library:
    """A library that keeps its kernels for the life of the process."""
    _libraries.append(torch.library.Library(namespace, "IMPL"))
    return _libraries[-1]


def casting(op: Op) -> Kernel:
    """The operation with its float32 arguments in autocast's dtype."""

    def cast(value: object) -> object:
        if isinstance(value, torch.Tensor) and value.dtype is torch.float32:
            return value.to(torch.get_autocast_dtype(private.NAME))
        return value

    def kernel(*args: object, **kwargs: object) -> object:
        with private.below_autocast():
            return op(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    return kernel


def with_two_roads() -> set[str]:
    """Operations with a CPU kernel that PyTorch would not take for another device, and the special ones."""
    composite = set().union(*(private.names_with_kernel(key) for key in _COMPOSITES))
    chosen = private.names_with_kernel("CPU") & composite | {private.name_of(op) for op in special.KERNELS}
    return {name for name in chosen if name.startswith("aten::")} | _DIRECT


def register(library: torch.library.Library, names: Iterable[str]) -> None:
    """Gives each named operation, `aten::add.Tensor`, its kernel for simulated tensors, once."""
    for name in sorted(names):
        namespace, _, short = name.partition("::")
        for _, op in found(namespace, [short]):
            if not private.has_kernel(name, "PrivateUse1"):
                library.impl(short, kernel_of(op), "PrivateUse1")


def found(namespace: str, names: Iterable[str]) -> Iterator[tuple[str, Op]]:
    """Names such as `mm` or `add.Tensor` with their operations; those that this PyTorch does not have are left out."""
    for name in names:
        base, _, overload = name.partition(".")
        op = getattr(getattr(getattr(torch.ops, namespace), base, None), overload or "default", None)
        if op is not None:
            yield name, op


def whole(op: Op) -> Kernel:
    """A composite operation in one step, if nothing asks for its parts: no gradient, no mode, one device."""
    run, alone = private.bound(op), kernels.gather_alone(op)

    def kernel(*args: object, **kwargs: object) -> object:
        if private.modes_are_watching() or any(isinstance(value, torch.Tensor) for value in kwargs.values()):
            return op.decompose(*args, **kwargs)
        given, index = alone(args)
        if given is None:
            return op.decompose(*args, **kwargs)
        return kernels.wrap(run(*given, **kwargs), index)

    return kernel
