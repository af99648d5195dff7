"""The machine a spec runs on: this one or a simulated one; its accelerator and the memory that planning may use."""

from collections.abc import Mapping
from types import ModuleType

import torch

from diag import simgpu
from diag.machine import torch_child
from diag.machine.memory import host_memory
from diag.values.hardware import Hardware
from diag.values.spec import LoadSpec


def use_hardware(hardware: Hardware | None) -> None:
    """Makes this process plan and load on `hardware`; None is the real machine. Plans for simulated hardware count the
    host memory that a container leaves, as plans for this machine do."""
    if hardware is not None:
        simgpu.activate(hardware, _free_host_bytes)
    elif accelerator_name() == "simgpu":
        simgpu.park()


def _free_host_bytes() -> int:
    return host_memory().free


def accelerator_name() -> str | None:
    """`cuda`, `xpu`, `mps`, `simgpu`, …, or None where there is only the CPU."""
    return (torch_child.accelerator_kind(torch) or None) if torch.accelerator.device_count() else None


def device_count() -> int:
    backend = _backend()
    return 0 if backend is None else int(backend.device_count())


def free_memory() -> dict[int | str, int]:
    """Free bytes by accelerator index, and of the host under "cpu": the smaller of what machine and cgroup allow."""
    kind = accelerator_name()
    free: dict[int | str, int] = {}
    for index in range(device_count()):
        nbytes, _ = torch_child.free_and_total_bytes(torch.get_device_module(kind), str(kind), index)
        if nbytes is not None:
            free[index] = nbytes
    if kind != "mps":  # unified memory: a budget for the CPU beside it would count it twice
        free["cpu"] = _free_host_bytes()
    return free


def usable_memory(spec: LoadSpec, frozen: Mapping[int | str, int] | None = None) -> dict[int | str, int]:
    """The `max_memory` for a spec: what it asks for, else what is free, with the room transformers itself keeps.

    Without a `max_memory`, transformers plans with 0.9 of a single accelerator and 0.9 of the host
    (integrations/accelerate.py get_balanced_memory and get_max_memory, 5.23.0); naming the free bytes would lose
    that, so it is applied here.
    """
    if spec.max_memory is not None:
        return dict(spec.max_memory)
    if spec.hardware is not None:
        free = simgpu.max_memory(spec.hardware, _free_host_bytes)
    else:
        free = dict(frozen) if frozen is not None else free_memory()
    single = sum(isinstance(key, int) for key in free) == 1
    return {key: int(size * 0.9) if key == "cpu" or single else size for key, size in free.items()}


def reset_peaks() -> None:
    """Starts a new measurement of the peak on every accelerator."""
    reset = getattr(_backend(), "reset_peak_memory_stats", None)
    if reset is not None:
        for index in range(device_count()):
            reset(index)


def accelerator_peaks() -> dict[str, int]:
    """Peak bytes allocated per accelerator since `reset_peaks`; empty where the backend does not count."""
    peak = getattr(_backend(), "max_memory_allocated", None)
    if peak is None:
        return {}
    return {f"{accelerator_name()}:{index}": int(peak(index)) for index in range(device_count())}


def _backend() -> ModuleType | None:
    """torch's module for the accelerator, such as `torch.cuda`."""
    name = accelerator_name()
    return None if name is None else torch.get_device_module(name)
