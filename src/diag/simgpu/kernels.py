"""Runs an operation on simulated tensors: unwraps them to the CPU, calls PyTorch, wraps what comes back.

`compile_kernel` reads an operation's schema once and returns a closure with only the steps it needs, because a forward
pass of a small model is thousands of operations.
"""

from collections.abc import Callable, Iterable
from numbers import Number
from typing import NamedTuple, TypeAlias

import torch

from diag.simgpu import memory, private
from diag.simgpu.memory import index_of
from diag.simgpu.mixed import refuse_mix
from diag.simgpu.private import Op

Kernel: TypeAlias = Callable[..., object]
Arguments: TypeAlias = tuple[object, ...]
_Tensor = torch.Tensor


class Shape(NamedTuple):
    """What a schema says about one operation: positions of arguments, and names of those that are keyword-only."""

    tensors: tuple[int, ...]  # positional arguments that hold a tensor or a list of tensors
    keywords: tuple[str, ...]  # keyword-only arguments that hold tensors
    outs: tuple[str, ...]  # keyword-only arguments that are written, such as `out`
    returns: tuple[int | str | None, ...]  # for each result the argument that it is, None for a new value
    makes_tensors: bool  # it has a `device` argument
    is_view: bool


def read_schema(op: Op) -> Shape:
    schema = private.schema(op)
    arguments = list(enumerate(schema.arguments))
    tensors = [(position, one) for position, one in arguments if "Tensor" in str(one.type)]
    written = {
        frozenset(one.alias_info.before_set): one.name if one.kwarg_only else position
        for position, one in arguments
        if one.alias_info is not None and one.alias_info.is_write
    }
    aliases = [result.alias_info for result in schema.returns]
    return Shape(
        tensors=tuple(position for position, one in tensors if not one.kwarg_only),
        keywords=tuple(one.name for _, one in tensors if one.kwarg_only),
        outs=tuple(where for where in written.values() if isinstance(where, str)),
        returns=tuple(written.get(frozenset(a.before_set)) if a is not None and a.is_write else None for a in aliases),
        makes_tensors=any(one.name == "device" for _, one in arguments),
        is_view=any(a is not None and not a.is_write for a in aliases),
    )


def compile_kernel(op: Op) -> Kernel:
    """The function that answers `op` for simulated tensors."""
    shape = read_schema(op)
    if shape.is_view:
        return private.metadata_kernel(op)
    if shape.outs:
        return _out_kernel(op, shape)
    if shape.keywords or shape.makes_tensors:
        return _general_kernel(op, shape)
    return _plain_kernel(op, shape)


def gatherer(op: Op, positions: tuple[int, ...]) -> Callable[[Arguments], tuple[list[object], int]]:
    """A function that gives the arguments on the CPU, and the index of their device; -1 where none is simulated."""
    as_cpu = private.as_cpu
    numbers_are_fine = private.takes_numbers(op)

    def gather(args: Arguments) -> tuple[list[object], int]:
        index, strays, given = -1, False, list(args)
        count = len(given)
        for position in positions:
            if position >= count:
                break
            value = given[position]
            if isinstance(value, _Tensor):
                if value.is_cpu:
                    strays = strays or value.dim() > 0  # a single number may come from the CPU
                    continue
                given[position], device = as_cpu(value)
                if device != index:
                    if index >= 0:
                        refuse_mix(op, args)
                    index = device
            elif isinstance(value, (list, tuple)):
                given[position], index, mixed = _gather_list(op, args, value, index)
                strays = strays or mixed
            elif not numbers_are_fine and isinstance(value, Number):
                given[position] = torch.tensor(value, device="cpu")
        if strays and index >= 0:
            refuse_mix(op, args)
        return given, index

    return gather


def _gather_list(op: Op, args: Arguments, values: Iterable[object], index: int) -> tuple[list[object], int, bool]:
    out: list[object] = []
    strays = False
    for value in values:
        if isinstance(value, _Tensor):
            if value.is_cpu:
                strays = strays or value.dim() > 0
            else:
                value, device = private.as_cpu(value)
                if device != index >= 0:
                    refuse_mix(op, args)
                index = device
        out.append(value)
    return out, index, strays


def gather_alone(op: Op) -> Callable[[Arguments], tuple[list[object] | None, int]]:
    """Like `gatherer`, but gives None where a gradient is wanted, and where devices are mixed or none is simulated."""
    positions = read_schema(op).tensors
    as_cpu, is_plain = private.as_cpu, private.is_plain

    def gather(args: Arguments) -> tuple[list[object] | None, int]:
        grads, home, given = torch.is_grad_enabled(), -1, list(args)
        for position in positions[: len(given)]:
            value = given[position]
            values = value if isinstance(value, (list, tuple)) else (value,)
            found: list[object] = []
            for one in values:
                if isinstance(one, _Tensor):
                    if one.is_cpu or (grads and one.requires_grad) or not is_plain(type(one)):
                        return None, -1
                    one, index = as_cpu(one)
                    if index != home >= 0:
                        return None, -1
                    home = index
                found.append(one)
            given[position] = found if values is value else found[0]
        return (given, home) if home >= 0 else (None, -1)

    return gather


def wrap(value: object, index: int) -> object:
    """A result from the CPU as a result of the device; what is not a tensor stays as it is."""
    if isinstance(value, _Tensor):
        return place(value, index)
    if isinstance(value, (list, tuple)):
        return type(value)(wrap(item, index) for item in value)
    return value


def place(cpu: torch.Tensor, index: int) -> torch.Tensor:
    """The CPU tensor's memory as a tensor of the device, which counts it until its last owner dies.

    Raises torch.OutOfMemoryError where it does not fit, and NotImplementedError for what is not dense.
    """
    if cpu.layout is not torch.strided or cpu.is_quantized:
        kind = "one that is quantized" if cpu.is_quantized else f"one with layout {cpu.layout}"
        raise NotImplementedError(f"{private.NAME} holds dense tensors only; this operation gave {kind}.")
    if cpu.is_conj() or cpu.is_neg():
        cpu = cpu.resolve_conj().resolve_neg()
    if not cpu.data_ptr() and cpu.numel():
        raise NotImplementedError(f"{private.NAME} holds tensors with memory only; this operation gave one without.")
    cpu._simulated_memory = memory.lease(index, cpu.nbytes)  # type: ignore[attr-defined]
    return private.as_simulated(cpu, index)


def _plain_kernel(op: Op, shape: Shape) -> Kernel:
    """Positional tensors in; out come new tensors, values, or the arguments that were written in place."""
    gather, run = gatherer(op, shape.tensors), private.bound(op)
    returns = shape.returns
    if not any(where is not None for where in returns):

        def plain(*args: object, **kwargs: object) -> object:
            given, index = gather(args)
            result = run(*given, **kwargs)
            return place(result, index) if isinstance(result, _Tensor) else wrap(result, index)

        return plain
    if len(returns) == 1 and isinstance(returns[0], int):
        written = returns[0]

        def in_place(*args: object, **kwargs: object) -> object:
            given, _ = gather(args)
            run(*given, **kwargs)
            return args[written]

        return in_place
    return _general_kernel(op, shape)


def _general_kernel(op: Op, shape: Shape) -> Kernel:
    """Also tensors in keywords, `device=`, and several results of which some are arguments."""
    gather, run = gatherer(op, shape.tensors), private.bound(op)

    def general(*args: object, **kwargs: object) -> object:
        given, index = gather(args)
        index = cpu_keywords(op, shape, args, kwargs, index)
        target = to_cpu_device(kwargs, index) if shape.makes_tensors else index
        return give_back(shape, run(*given, **kwargs), args, {}, target)

    return general


def cpu_keywords(op: Op, shape: Shape, args: Arguments, kwargs: dict[str, object], index: int) -> int:
    """Replaces simulated tensors in `kwargs` by their CPU tensors; returns the device index."""
    for name in shape.keywords:
        value = kwargs.get(name)
        if isinstance(value, _Tensor) and not value.is_cpu:
            kwargs[name], device = private.as_cpu(value)
            if device != index >= 0:
                refuse_mix(op, (*args, value))
            index = device
        elif isinstance(value, _Tensor) and value.dim() and index >= 0:
            refuse_mix(op, (*args, value))
    return index


def to_cpu_device(kwargs: dict[str, object], index: int) -> int:
    """Turns `device=` into the CPU; returns the index the result belongs to, -1 where that is the CPU."""
    device = kwargs.get("device")
    if isinstance(device, torch.device):
        index = index_of(device) if device.type == private.NAME else -1
        if index >= 0:
            kwargs["device"] = torch.device("cpu")
    if index >= 0:
        kwargs.pop("pin_memory", None)
    return index


def give_back(shape: Shape, result: object, args: Arguments, outs: dict[str, object], index: int) -> object:
    """Results as the caller expects them: an argument that was written is that very object, new tensors are wrapped."""
    values = result if len(shape.returns) > 1 and isinstance(result, (list, tuple)) else (result,)
    answers: list[object] = []
    for where, value in zip(shape.returns, values):
        if isinstance(where, int):
            answers.append(args[where])
        elif where is not None:
            answers.append(outs[where])
        else:
            answers.append(wrap(value, index) if index >= 0 else value)
    return tuple(answers) if len(shape.returns) > 1 else next(iter(answers), None)


def _out_kernel(op: Op, shape: Shape) -> Kernel:
    """`out=`: runs into fresh CPU tensors, then fills or replaces the memory of the output."""
    gather, run = gatherer(op, shape.tensors), private.bound(op)

    def out(*args: object, **kwargs: object) -> object:
        given, index = gather(args)
        outputs = {name: kwargs[name] for name in shape.outs if kwargs.get(name) is not None}
        index = cpu_keywords(op, shape, args, kwargs, index)
        kwargs.update({name: _empty_on_cpu(output) for name, output in outputs.items()})
        run(*given, **kwargs)
        for name, output in outputs.items():
            fill(output, kwargs[name])
        written = (None,) * len(shape.returns)
        return give_back(shape, written if len(written) > 1 else None, args, outputs, index)

    return out


def _empty_on_cpu(output: object) -> object:
    """An empty CPU tensor for an output, a list of them for a list."""
    if isinstance(output, (list, tuple)):
        return [_empty_on_cpu(one) for one in output]
    return torch.empty(0, dtype=getattr(output, "dtype", None), device="cpu")


def fill(output: object, cpu: object) -> None:
    """Writes a CPU result into a simulated output, giving it new memory where its shape does not fit."""
    if isinstance(output, (list, tuple)) and isinstance(cpu, list):
        for one, result in zip(output, cpu):
            fill(one, result)
        return
    assert isinstance(output, _Tensor) and isinstance(cpu, _Tensor)
    here, index = private.as_cpu(output)
    if output.shape == cpu.shape:
        here.copy_(cpu)
    else:
        private.set_memory(output, place(cpu, index))
