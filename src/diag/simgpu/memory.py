"""The simulated GPUs of this process: which one a device means, how many bytes live on each, and what the host has."""

import gc
import threading
from collections.abc import Callable

import psutil
import torch
from torch.types import Device

from diag.simgpu.private import MAX_DEVICES, NAME
from diag.values.hardware import Hardware

# One slot per device, for the life of the process: tensors may outlive a configuration.
capacity = [0] * MAX_DEVICES
taken = [0] * MAX_DEVICES  # bytes that simulated other holders have
limit = [0] * MAX_DEVICES  # capacity - taken
used = [0] * MAX_DEVICES
peak = [0] * MAX_DEVICES

host: int | None = None  # the simulated host's size; None: this machine's
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
    if not 0 <= index < MAX_DEVICES or (not capacity[index] and not used[index]):
        count = sum(1 for size in capacity if size)
        raise RuntimeError(f"{NAME} error: invalid device ordinal: {index}. This simulation has {count} device(s).")
    return index


def free_host_bytes() -> int:
    """Host memory that is available, in bytes. `activate` puts another function here, which knows of containers."""
    return psutil.virtual_memory().available


class Lease:
    """Bytes of one device, given back when the memory's owner dies. Kept as an attribute of the owner."""

    __slots__ = ("index", "nbytes")

    def __init__(self, index: int, nbytes: int) -> None:
        self.index, self.nbytes = index, nbytes

    def __del__(self, used: list[int] = used) -> None:  # bound: modules may be gone at exit
        used[self.index] -= self.nbytes


def lease(index: int, nbytes: int) -> Lease:
    """Counts `nbytes` on a device. Raises torch.OutOfMemoryError when they do not fit."""
    total = used[index] + nbytes
    if total > limit[index]:
        make_room(index, nbytes)
        total = used[index] + nbytes
    used[index] = total
    if total > peak[index]:
        peak[index] = total
    return Lease(index, nbytes)


def make_room(index: int, nbytes: int) -> None:
    """Returns when `nbytes` fit, after collecting garbage if need be.

    Raises torch.OutOfMemoryError in the usual words: asked, capacity, free, and who has the rest.
    """
    if used[index] + nbytes <= limit[index]:
        return
    gc.collect()
    if used[index] + nbytes <= limit[index]:
        return
    others = f" Other processes (simulated) have {text(taken[index])} in use." if taken[index] else ""
    raise torch.OutOfMemoryError(
        f"{NAME} out of memory. Tried to allocate {text(nbytes)}. GPU {index} ({NAME}:{index}, simulated) has a "
        f"total capacity of {text(capacity[index])} of which {text(free(index))} is free.{others} "
        f"Of the allocated memory {text(used[index])} is allocated by PyTorch."
    )


def free(index: int) -> int:
    return max(0, limit[index] - used[index])


def host_bytes(size: int | None, free_bytes: Callable[[], int] | None = None) -> int:
    """Host memory to plan with: what this machine has free, and at most `size`, that of a simulated host (bytes)."""
    available = (free_bytes or free_host_bytes)()
    return available if size is None else min(size, available)


def configure(hardware: Hardware) -> None:
    """Sets sizes and what others hold, and starts the peaks anew. Slots beyond the hardware's GPUs hold nothing."""
    global host
    unused = [0] * (MAX_DEVICES - len(hardware.gpus))
    capacity[:] = [*hardware.gpus, *unused]
    taken[:] = [*hardware.taken, *unused]
    limit[:] = [*hardware.free, *unused]
    peak[:] = used
    host = hardware.host


def text(nbytes: int) -> str:
    """Bytes as PyTorch's own out-of-memory message writes them: `108.00 MiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} bytes"
