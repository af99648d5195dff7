"""Who else was there: free memory per device, and which other processes held it, at one moment.

Runs in a cell's own process. Where a platform does not tell, the entry is absent, not zero.
"""

import contextlib
import os

import psutil
import torch

from diag.machine.accelerators import accelerator_name, device_count, free_memory
from diag.machine.holders import gpu_holders, owner_of
from diag.models.devices import device_name
from diag.simgpu import memory
from diag.sweep.cell.records import Other

_SHARE_WORTH_NAMING = 0.05  # of the host's memory
_HOST_PROCESSES = 3


def free_by_device() -> dict[str, int]:
    """Free bytes by device name (`cpu`, `cuda:0`, `simgpu:1`, …), of the host what its cgroup leaves."""
    kind = accelerator_name()
    return {device_name(device, kind): size for device, size in free_memory().items()}


def others() -> tuple[Other, ...]:
    """Who holds memory now, largest first: GPU processes as the driver lists them, and the largest of the host's."""
    ours = _own_family()
    both = [sorted(found, key=lambda one: -(one.nbytes or 0)) for found in (_on_accelerators(ours), _on_host(ours))]
    return (*both[0], *both[1][:_HOST_PROCESSES])


def _on_accelerators(ours: set[int]) -> list[Other]:
    kind = accelerator_name()
    if kind is None:
        return []
    if kind == "simgpu":
        held = [(f"simgpu:{index}", nbytes) for index, nbytes in enumerate(memory.taken) if nbytes]
        return [Other(name, "simulated process", "another user", None, nbytes) for name, nbytes in held]
    backend, names, found = torch.get_device_module(kind), {}, []
    for index in range(device_count()):
        uuid = getattr(backend.get_device_properties(index), "uuid", "")
        names[str(uuid).removeprefix("GPU-")] = f"{kind}:{index}"
    for holder in gpu_holders():
        device = names.get(holder.uuid.removeprefix("GPU-"))
        if device is not None and holder.pid != os.getpid():
            owner = "this run" if holder.pid in ours else holder.owner
            found.append(Other(device, holder.program, owner, holder.pid, holder.nbytes))
    return found


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
