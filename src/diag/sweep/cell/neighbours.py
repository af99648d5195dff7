"""Who else was there: free memory per device, and which other processes held it, at one moment.

Runs in a cell's own process. Where a platform does not tell, the entry is absent, not zero.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_SHARE_WORTH_NAMING = 0.05  # of the host's memory
_HOST_PROCESSES = 3


@dataclass(frozen=True)
class Other:
    """A process that held memory on a device. `owner` as in `gpuholders.Holder`, or `this run` for another cell."""

    device: str
    program: str
    owner: str
    pid: int | None = None
    nbytes: int | None = None


def free_by_device() -> dict[str, int]:
    """Free bytes by device name (`cpu`, `cuda:0`, `simgpu:1`, …), of the host what its cgroup leaves."""
    from diag.machine.accelerators import accelerator_name, free_memory

    kind = accelerator_name()
    return {(key if isinstance(key, str) else f"{kind}:{key}"): size for key, size in free_memory().items()}


def others() -> tuple[Other, ...]:
    """Who holds memory now, largest first: GPU processes as the driver lists them, and the largest of the host's."""
    found = [*_on_accelerators(), *_on_host()]
    return tuple(sorted(found, key=lambda other: (other.device == "cpu", -(other.nbytes or 0))))


def to_json(found: Iterable[Other]) -> list[dict[str, Any]]:
    return [asdict(other) for other in found]


def in_words(found: Iterable[Any]) -> str:
    """
    >>> in_words([Other("cuda:0", "ollama", "another user", 71, 4 * 2**30)])
    'cuda:0: ollama (pid 71, another user) held 4 GiB'
    """
    from diag.values.units import format_size

    texts = []
    for other in found:
        values = other if isinstance(other, dict) else asdict(other)
        pid = f"pid {values['pid']}, " if values["pid"] is not None else ""
        size = "an unknown amount" if values["nbytes"] is None else format_size(values["nbytes"])
        texts.append(f"{values['device']}: {values['program']} ({pid}{values['owner']}) held {size}")
    return "; ".join(texts)


def _on_accelerators() -> list[Other]:
    from diag.machine.accelerators import accelerator_name, device_count

    kind = accelerator_name()
    if kind == "simgpu":
        return _simulated()
    if kind is None:
        return []
    from diag.machine.holders import gpu_holders

    names = {_uuid(kind, index): f"{kind}:{index}" for index in range(device_count())}
    ours = _own_family()
    return [
        Other(names[holder.uuid.removeprefix("GPU-")], holder.program,
              "this run" if holder.pid in ours else holder.owner, holder.pid, holder.nbytes)
        for holder in gpu_holders()
        if holder.uuid.removeprefix("GPU-") in names and holder.pid != os.getpid()
    ]  # fmt: skip


def _uuid(kind: str, index: int) -> str:
    import torch

    properties = torch.get_device_module(kind).get_device_properties(index)
    return str(getattr(properties, "uuid", "")).removeprefix("GPU-")


def _simulated() -> list[Other]:
    from diag.simgpu import memory

    held = enumerate(memory.taken)
    return [Other(f"simgpu:{i}", "simulated process", "another user", None, size) for i, size in held if size]


def _on_host() -> list[Other]:
    """The largest other processes; those of this run are left out of a list that is about strangers."""
    import psutil

    ours, limit = _own_family(), psutil.virtual_memory().total * _SHARE_WORTH_NAMING
    found = []
    for process in psutil.process_iter(["pid", "name", "memory_info", "username"]):
        info = process.info
        size = getattr(info["memory_info"], "rss", 0)
        if info["pid"] not in ours and size >= limit:
            found.append(Other("cpu", str(info["name"]), _owner(info["username"]), info["pid"], size))
    return sorted(found, key=lambda other: -(other.nbytes or 0))[:_HOST_PROCESSES]


def _owner(username: str | None) -> str:
    import psutil

    try:
        return "this user" if username == psutil.Process().username() else "another user"
    except (psutil.Error, KeyError):
        return "unknown"


def _own_family() -> set[int]:
    """This cell, what started it up to the caller, and the other cells below them."""
    import psutil

    pids = {os.getpid()}
    try:
        above = psutil.Process().parents()[:2]  # the supervisor, and the caller of matrix
    except psutil.Error:
        return pids
    pids |= {process.pid for process in above}
    for process in above[:1]:
        try:
            pids |= {child.pid for child in process.children(recursive=True)}
        except psutil.Error:
            continue
    return pids
