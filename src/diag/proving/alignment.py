"""Gives a twin's weights the addresses that a model's weights have, modulo 64 bytes.

Matrix kernels take another path for weights that begin at an unaligned address, and add in another order: weights
mapped from a safetensors file begin where the file has them, copies and `.dat` files of accelerate at multiples of 64.
With equal values that alone can move an answer by some 1e-8.
"""

from collections.abc import Iterator

import torch
from torch import nn

from diag.models.snapshot import take
from diag.proving.weights import held_value

_LINE = 64  # bytes: what torch's allocator aligns to on the CPU


def align_like(twin: nn.Module, model: nn.Module) -> int:
    """Moves the twin's plain tensors, in memory, to where the model's are modulo 64; returns how many were moved.

    Only the twin is changed. A tensor of the model that is offloaded is asked for where its hook would take it from.
    """
    wanted = dict(_offsets(model))
    moved: set[int] = set()
    for entry in take(twin).entries:
        tensor = entry.tensor
        offset = wanted.get(entry.name)
        if offset is None or id(tensor) in moved or not _is_plain(tensor) or tensor.data_ptr() % _LINE == offset:
            continue
        tensor.data = _at_offset(tensor, offset)
        moved.add(id(tensor))
    return len(moved)


def _offsets(model: nn.Module) -> Iterator[tuple[str, int]]:
    snapshot = take(model)
    for entry in snapshot.entries:
        value = held_value(entry, snapshot) if entry.is_meta else entry.tensor
        if value is not None and _is_plain(value):
            yield entry.name, value.data_ptr() % _LINE if value.device.type == "cpu" else 0


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_meta and tensor.is_contiguous()


def _at_offset(tensor: torch.Tensor, offset: int) -> torch.Tensor:
    room = torch.empty(tensor.nbytes + 2 * _LINE, dtype=torch.uint8)
    start = (offset - room.data_ptr()) % _LINE
    if tensor.nbytes == 0 or start % tensor.element_size():
        return tensor.data
    copy = room[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor.data)
