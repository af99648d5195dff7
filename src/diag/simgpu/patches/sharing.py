"""Simulated tensors between processes: queues, pipes and data loader workers carry a copy of their values.

CUDA shares the memory itself; here the receiving process gets memory of its own on the device of the same number.
"""

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import TypeAlias

import torch
import torch.multiprocessing  # registers PyTorch's own reducers, which ours hand on to

from diag.errors import DiagError
from diag.simgpu import kernels, memory, private

Reduced: TypeAlias = "tuple[Callable[..., torch.Tensor], tuple[object, ...]]"  # as `object.__reduce__` gives it


def install() -> None:
    """Puts our reducer before PyTorch's."""
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
