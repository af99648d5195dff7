"""Which simulated GPU a number, a name or a torch.device stands for, and which one is current in this thread."""

import threading

import torch
from torch.types import Device

from diag.simgpu import memory, private

_local = threading.local()


def current_index() -> int:
    return getattr(_local, "index", 0)


def set_current_index(index: int) -> None:
    _local.index = index


def index_of(device: Device) -> int:
    """The index of a device; None, and a device without an index, mean the current one. RuntimeError if none such."""
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.device):
        device = device.index
    index = current_index() if device is None else int(device)
    if not 0 <= index < private.MAX_DEVICES or (not memory.capacity[index] and not memory.used[index]):
        count = sum(1 for size in memory.capacity if size)
        raise RuntimeError(
            f"{private.NAME} error: invalid device ordinal: {index}. This simulation has {count} device(s)."
        )
    return index
