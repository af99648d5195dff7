"""Who else was there: free memory per device, and which other processes held it, at one moment.

Runs in a cell's own process. Where a platform does not tell, the entry is absent, not zero.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from diag.machine.holders import gpu_holders, owner_of
from diag.values.units import format_size

_SHARE_WORTH_NAMING = 0.05  # of the host's memory
_HOST_PROCESSES = 3


@dataclass(frozen=True)
class Other:
    """A process that held memory on a device. `owner` as in `machine.holders`, or `this run` for another cell."""

    device: str
    program: str
    owner: str
    pid: int | None = None
    nbytes: int | None = None

    def __str__(self) -> str:
        """
        >>> str(Other("cuda:0", "ollama", "another user", 71, 4 * 2**30))
        'cuda:0: ollama (pid 71, another user) held 4 GiB'
        """
        pid = "" if self.pid is None else f"pid {self.pid}, "
        size = "an unknown amount" if self.nbytes is None else format_size(self.nbytes)
        return f"{self.device}: {self.program} ({pid}{self.owner}) held {size}"


def free_by_device() -> dict[str, int]:
    """Free bytes by device name (`cpu`, `cuda:0`, `simgpu:1`, …), of the host what its cgroup leaves."""
    from diag.machine.accelerators import accelerator_name, free_memory
    from diag.models.devices import device_name

    kind = accelerator_name()
    return {device_name(device, kind): size for device, size in free_memory().items()}


def others() -> tuple[Other, ...]:
    """Who holds memory now, largest first: GPU processes as the driver lists them, and the largest of the host's."""
    ours = _own_family()
    return (*_largest_first(_on_accelerators(ours)), *_largest_first(_on_host(ours))[:_HOST_PROCESSES])


def _largest_first(found: Iterable[Other]) -> list[Other]:
    return sorted(found, key=lambda other: -(other.nbytes or 0))


def _on_accelerators(ours: set[int]) -> list[Other]:
    from diag.machine.accelerators import accelerator_name, device_count

    kind = accelerator_name()
    if kind == "simgpu":
        return _simulated()
    if kind is None:
        return []
    names = {_uuid(kind, index): f"{kind}:{index}" for index in range(device_count())}
    found = []
    for holder in gpu_holders():
        device = names.get(holder.uuid.removeprefix("GPU-"))
        if device is not None and holder.pid != os.getpid():
            owner = "this run" if holder.pid in ours else holder.owner
            found.append(Other(device, holder.program, owner, holder.pid, holder.nbytes))
    return found


def _uuid(kind: str, index: int) -> str:
    import torch

    properties = torch.get_device_module(kind).get_device_properties(index)
    return str(getattr(properties, "uuid", "")).removeprefix("GPU-")


def _simulated() -> list[Other]:
    from diag.simgpu import memory

    held = enumerate(memory.taken)
    return [Other(f"simgpu:{i}", "simulated process", "another user", None, size) for i, size in held if size]


def _on_host(ours: set[int]) -> list[Other]:
    """The large other processes; those of this run are left out of a list that is about strangers."""
    limit = psutil.virtual_memory().total * _SHARE_WORTH_NAMING
    found = []
    for process in psutil.process_iter(["pid", "name", "memory_info"]):
        info = process.info
        size = getattr(info["memory_info"], "rss", 0)
        if info["pid"] not in ours and size >= limit:
            found.append(Other("cpu", str(info["name"]), owner_of(info["pid"]), info["pid"], size))
    return found


def _own_family() -> set[int]:
    """This cell, what started it up to the caller, and the other cells below them."""
    pids = {os.getpid()}
    with contextlib.suppress(psutil.Error):
        above = psutil.Process().parents()[:2]  # the supervisor, and the caller of matrix
        pids |= {process.pid for process in above}
        pids |= {child.pid for process in above[:1] for child in process.children(recursive=True)}
    return pids
