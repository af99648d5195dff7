"""Refuses what simulated GPUs can't do (compiling, some training) with a message; PyTorch would fail deep inside."""

import functools
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NoReturn

import torch

from diag.errors import DiagError
from diag.simgpu import private
from diag.simgpu.patches.libraries import after_import


def install() -> None:
    """Puts the refusals in place."""
    private.replace_engine(explained_backward)
    torch.compile = refusing_compile(torch.compile)
    after_import("torch._inductor.codegen.common", refuse_in_inductor)


# -- autograd ----------------------------------------------------------------------------------------------------------


def explained_backward(original: private.Backward) -> private.Backward:
    """Explains a backward that reaches another simulated device than the first; PyTorch's is an internal assertion."""

    def run_backward(*args: object, **kwargs: object) -> tuple[torch.Tensor, ...]:
        try:
            return original(*args, **kwargs)
        except RuntimeError as error:
            if private.NO_QUEUE not in str(error):
                raise
            raise DiagError(
                "backward on simulated GPUs works on simgpu:0 only, in a process that simulated them before its first "
                "backward.",
                why="this graph reaches another one, or PyTorch's autograd engine was started before: it makes its "
                "queues once, one for a device type registered from Python.",
                next_step="restart the process and put the whole model on 'simgpu:0', or train on the CPU; gradients "
                "so far are partial.",
            ) from error

    return run_backward


# -- torch.compile -----------------------------------------------------------------------------------------------------


def refuse_compile() -> NoReturn:
    what = "torch.compile does not run on simulated GPUs."
    next_step = "call the model without compiling it, or compile it on the CPU (hardware=None)."
    raise DiagError(what, why="it generates code for a real device, and a simulated one has none.", next_step=next_step)


def refusing_compile(original: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` that refuses simulated modules at once and simulated arguments when called."""

    @functools.wraps(original)
    def compile(model: Callable[..., object] | None = None, **options: object) -> Callable[..., Any]:
        if model is None:
            return lambda function: compile(function, **options)
        owner = getattr(model, "__self__", None)
        _refuse_if_simulated((model, owner))
        compiled = original(model, **options)
        if isinstance(model, torch.nn.Module) or not callable(compiled):
            return compiled

        @functools.wraps(compiled)
        def call(*args: object, **kwargs: object) -> object:
            _refuse_if_simulated((owner, *args, *kwargs.values()))
            return compiled(*args, **kwargs)

        return call

    return compile


def _refuse_if_simulated(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, torch.nn.Module):
            value = next(value.parameters(), None)
        if isinstance(value, torch.Tensor) and value.device.type == private.NAME:
            refuse_compile()


def refuse_in_inductor(common: ModuleType) -> None:
    """Refuses code that was compiled before the simulation was active, and code that moves to it inside."""
    refusing = _Refusing()
    for register, arguments in (("register_device_op_overrides", 1), ("register_backend_for_device", 2)):
        if hasattr(common, register):
            getattr(common, register)(private.NAME, *[refusing] * arguments)


class _Refusing:
    def __getattr__(self, name: str) -> NoReturn:
        refuse_compile()
