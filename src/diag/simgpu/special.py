"""Operations that a schema does not describe well enough: copies between devices, new memory, resizing."""

import math
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch.types import Device

from diag.simgpu import kernels, memory, private
from diag.simgpu.memory import index_of
from diag.simgpu.private import Op

aten = torch.ops.aten
_Tensor = torch.Tensor
_ALIGNMENT = 64  # of PyTorch's own CPU memory


def to_copy(
    tensor: _Tensor, *, device: torch.device | None = None, dtype: torch.dtype | None = None, **kwargs: object
) -> _Tensor:
    """`.to(…)` between simulated devices, the CPU and meta; always a copy."""
    kwargs.pop("pin_memory", None)
    cpu, index = (tensor, -1) if tensor.is_cpu else private.as_cpu(tensor)
    if device is not None and device.type != private.NAME:
        return aten._to_copy(cpu, device=device, dtype=dtype, **kwargs)
    target = index if device is None else index_of(device)
    # Converted before it arrives: CUDA's copy does not hold both dtypes on the device either.
    itemsize = (dtype or cpu.dtype).itemsize
    memory.make_room(target, 0 if cpu.layout is not torch.strided else cpu.numel() * itemsize)
    return kernels.place(copy_at_home(cpu, dtype, kwargs), target)


def copy_at_home(cpu: _Tensor, dtype: torch.dtype | None, kwargs: dict[str, object]) -> _Tensor:
    """A copy that starts as far from a 64-byte boundary as its source does.

    Matrix kernels of the CPU round differently for other alignments, and a weight mapped from a file sits where the
    file has it. Without this, a weight fetched from the host would have other last bits than in the CPU model.
    """
    shift = cpu.data_ptr() % _ALIGNMENT
    if not shift or dtype not in (None, cpu.dtype) or not cpu.is_contiguous():
        return aten._to_copy(cpu, dtype=dtype, **kwargs)
    room = torch.empty(cpu.nbytes + _ALIGNMENT, dtype=torch.uint8, device="cpu")
    start = (shift - room.data_ptr()) % _ALIGNMENT
    return room[start : start + cpu.nbytes].view(cpu.dtype).view(cpu.shape).copy_(cpu)


def grouped_mm(*args: object, **kwargs: object) -> object:
    """Asks for matrices on 16-byte boundaries, which a copy that starts where its source starts may miss."""
    return _grouped_mm(*map(_aligned, args), **{name: _aligned(value) for name, value in kwargs.items()})


def _aligned(value: object) -> object:
    if not isinstance(value, _Tensor) or value.is_cpu or private.as_cpu(value)[0].data_ptr() % 16 == 0:
        return value
    return value.clone(memory_format=torch.preserve_format)


_grouped_mm = kernels.compile_kernel(aten._grouped_mm.default)


def histc(tensor: _Tensor, bins: int = 100, min: float = 0, max: float = 0) -> _Tensor:
    """Counts whole numbers too, as a GPU does and the CPU does not; models use it on any device but the CPU."""
    cpu, index = private.as_cpu(tensor)
    counts = aten.histc(cpu if cpu.is_floating_point() else cpu.double(), bins, min, max)
    return kernels.place(counts.to(cpu.dtype), index)


def copy_(target: _Tensor, source: _Tensor, non_blocking: bool = False) -> _Tensor:
    """`target.copy_(source)` between the CPU and simulated devices, in any direction."""
    _on_cpu(target).copy_(_on_cpu(source))
    return target


def copy_from(source: _Tensor, target: _Tensor, non_blocking: bool = False) -> _Tensor:
    """PyTorch calls this where it copies a CPU tensor to a device that it does not know."""
    return copy_(target, source)


def _on_cpu(tensor: _Tensor) -> _Tensor:
    return tensor if tensor.is_cpu else private.as_cpu(tensor)[0]


def resize_(tensor: _Tensor, size: Sequence[int], *, memory_format: torch.memory_format | None = None) -> _Tensor:
    """Grows into new memory when the old is too small, keeping the values; otherwise only the shape changes."""
    itemsize = tensor.element_size()
    have = tensor.untyped_storage().nbytes() - tensor.storage_offset() * itemsize
    if math.prod(size) * itemsize > have:
        index = private.as_cpu(tensor)[1]
        memory.make_room(index, math.prod(size) * itemsize)
        flat = torch.empty(math.prod(size), dtype=tensor.dtype, device="cpu")
        kept = have // itemsize
        if kept:
            flat[:kept] = private.as_cpu(tensor.as_strided((kept,), (1,)))[0]
        private.set_memory(tensor, kernels.place(flat, index))
    private.metadata_kernel(aten.resize_.default)(tensor, size, memory_format=memory_format)
    return tensor


def set_nothing(tensor: _Tensor) -> _Tensor:
    """`tensor.set_()`: an empty tensor on the same device."""
    index = private.as_cpu(tensor)[1]
    private.set_memory(tensor, kernels.place(torch.empty(0, dtype=tensor.dtype, device="cpu"), index))
    return tensor


def set_source_tensor(tensor: _Tensor, source: _Tensor) -> _Tensor:
    if tensor.device != source.device:
        raise RuntimeError(
            f'Attempted to set the storage of a tensor on device "{tensor.device}" to a storage on different '
            f'device "{source.device}".  This is no longer allowed; the devices must match.'
        )
    return private.metadata_kernel(aten.set_.source_Tensor)(tensor, source)


def new_memory(op: Op) -> Callable[..., _Tensor]:
    """Factories whose size is known before any byte is asked of the host."""
    run = private.bound(op)

    def make(size: Sequence[int], *args: object, dtype: torch.dtype | None = None, **kwargs: object) -> _Tensor:
        index = kernels.to_cpu_device(kwargs, -1)
        memory.make_room(index, math.prod(size) * (dtype or torch.get_default_dtype()).itemsize)
        return kernels.place(run(size, *args, dtype=dtype, **kwargs), index)

    return make


def zeros(size: Sequence[int], *, dtype: torch.dtype | None = None, **kwargs: object) -> _Tensor:
    """Forward-mode gradients ask for zeros without memory; here they get ordinary ones."""
    index = kernels.to_cpu_device(kwargs, -1)
    return kernels.place(torch.zeros(tuple(size), dtype=dtype, device="cpu"), index)


def no_fused_cell(*args: object, **kwargs: object) -> NoReturn:
    raise NotImplementedError(
        f"recurrent layers run on {private.NAME} without gradients only; use torch.no_grad(), or the CPU to train."
    )


def pin_memory(tensor: _Tensor, device: Device = None) -> NoReturn:
    raise RuntimeError(f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned")


def answer_no(*args: object, **kwargs: object) -> bool:
    return False


KERNELS: dict[Op, kernels.Kernel] = {
    aten._to_copy.default: to_copy,
    aten.histc.default: histc,
    aten._grouped_mm.default: grouped_mm,
    aten._nested_tensor_from_mask_left_aligned.default: answer_no,  # nested tensors do not live on simulated devices
    aten.copy_.default: copy_,
    aten._copy_from.default: copy_from,
    aten._copy_from_and_resize.default: lambda source, target: copy_(resize_(target, list(source.shape)), source),
    aten.resize_.default: resize_,
    aten.set_.default: set_nothing,
    aten.set_.source_Tensor: set_source_tensor,
    aten.set_.source_Storage: private.metadata_kernel(aten.set_.source_Storage),
    aten.set_.source_Storage_storage_offset: private.metadata_kernel(aten.set_.source_Storage_storage_offset),
    aten.empty.memory_format: new_memory(aten.empty.memory_format),
    aten.empty_strided.default: new_memory(aten.empty_strided.default),
    aten._efficientzerotensor.default: zeros,
    aten._thnn_fused_lstm_cell.default: no_fused_cell,
    aten._thnn_fused_gru_cell.default: no_fused_cell,
    aten._pin_memory.default: pin_memory,
    aten.is_pinned.default: answer_no,
    aten.record_stream.default: lambda *_: None,  # every operation is finished when it returns
}
