"""The machine a spec runs on: this one or a simulated one; its accelerator and the memory that planning may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from diag import simgpu
from diag.machine.memory import host_memory
from diag.values.hardware import Hardware
from diag.values.spec import LoadSpec


def use_hardware(hardware: Hardware | None) -> None:
    """Makes this process plan and load on `hardware`; None is the real machine.

    Plans for simulated hardware count the host memory that a container leaves, as plans for this machine do.
    """
    if hardware is None:
        simgpu.park()
    else:
        simgpu.activate(hardware, _free_host_bytes)


def _free_host_bytes() -> int:
    return host_memory().free


def accelerator_name() -> str | None:
    """`cuda`, `xpu`, `mps`, `simgpu`, …, or None where there is only the CPU."""
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6 and later
    if accelerator is not None:
        if not accelerator.is_available() or accelerator.device_count() == 0:
            return None
        return accelerator.current_accelerator().type
    return "cuda" if torch.cuda.is_available() else None


def device_count() -> int:
    name = accelerator_name()
    return 0 if name is None else torch.get_device_module(name).device_count()


def free_memory() -> dict[Any, int]:
    """Free bytes by accelerator index, and of the host under "cpu": the smaller of what machine and cgroup allow."""
    name = accelerator_name()
    free: dict[Any, int] = {}
    if name is not None:
        module = torch.get_device_module(name)
        for index in range(module.device_count()):
            free[index] = int(module.mem_get_info(index)[0])
    if name != "mps":  # unified memory: a budget for the CPU beside it would count it twice
        free["cpu"] = _free_host_bytes()
    return free


def usable_memory(spec: LoadSpec, frozen: Mapping[Any, int] | None = None) -> dict[Any, int]:
    """The `max_memory` for a spec: what it asks for, else what is free, with the room transformers itself keeps.

    Without a `max_memory`, transformers plans with 0.9 of a single accelerator and 0.9 of the host
    (integrations/accelerate.py get_balanced_memory and get_max_memory, 5.23.0); naming the free bytes would lose
    that, so it is applied here.
    """
    if spec.max_memory is not None:
        return dict(spec.max_memory)
    if spec.hardware is not None:
        free = dict(simgpu.max_memory(spec.hardware, _free_host_bytes))
    else:
        free = dict(frozen) if frozen is not None else free_memory()
    single = sum(isinstance(key, int) for key in free) == 1
    return {key: int(size * 0.9) if key == "cpu" or single else size for key, size in free.items()}


def device_names() -> list[str]:
    """Every device memory is counted on: the host and each accelerator."""
    name = accelerator_name()
    return ["cpu", *(f"{name}:{index}" for index in range(device_count()))]


def reset_peaks() -> None:
    """Starts a new measurement of the peak on every accelerator."""
    name = accelerator_name()
    for index in range(device_count()):
        reset = getattr(torch.get_device_module(name), "reset_peak_memory_stats", None)
        if reset is not None:
            reset(index)


def accelerator_peaks() -> dict[str, int]:
    """Peak bytes allocated per accelerator since `reset_peaks`; empty where the backend does not count."""
    name = accelerator_name()
    peaks = {}
    for index in range(device_count()):
        peak = getattr(torch.get_device_module(name), "max_memory_allocated", None)
        if peak is not None:
            peaks[f"{name}:{index}"] = int(peak(index))
    return peaks
