"""The backend module, `torch.simgpu`: what PyTorch and its libraries ask a device type, as `torch.cuda` answers it.

Sizes are in bytes. A device is a number, a name or a torch.device; None is the current one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import torch
from torch.types import Device

from diag.simgpu import memory
from diag.simgpu.memory import current_index, index_of, set_current_index
from diag.simgpu.private import NAME

visible = 0  # how many devices the process is told about


def _yes(*_: object, **__: object) -> bool:
    return True


def _nothing(*_: object, **__: object) -> None:
    """Nothing is cached, and nothing pending: everything has happened when a call returns."""


# -- which devices -----------------------------------------------------------------------------------------------------


is_initialized = is_bf16_supported = _yes


def is_available() -> bool:
    return visible > 0


def device_count() -> int:
    return visible


current_device = current_index


def set_device(device: Device) -> None:
    set_current_index(index_of(device))


class device:
    """`with torch.simgpu.device(1):` makes it the current device inside the block."""

    def __init__(self, device: Device) -> None:
        self.index = index_of(device)

    def __enter__(self) -> None:
        self.before = current_index()
        set_current_index(self.index)

    def __exit__(self, *exc: object) -> None:
        set_current_index(self.before)


def get_device_name(device: Device = None) -> str:
    return f"Simulated GPU {index_of(device)}"


def get_device_capability(device: Device = None) -> tuple[int, int]:
    return (0, 0)


def get_device_properties(device: Device = None) -> SimpleNamespace:
    index = index_of(device)
    fixed = {"major": 0, "minor": 0, "multi_processor_count": 1, "is_integrated": False, "simulated": True}
    return SimpleNamespace(name=get_device_name(index), total_memory=memory.capacity[index], **fixed)


# -- memory ------------------------------------------------------------------------------------------------------------


def mem_get_info(device: Device = None) -> tuple[int, int]:
    """Free and total bytes; what simulated others hold is not free."""
    index = index_of(device)
    return memory.free(index), memory.capacity[index]


def memory_allocated(device: Device = None) -> int:
    return memory.used[index_of(device)]


def max_memory_allocated(device: Device = None) -> int:
    """The most bytes at once since the start, `reset_peak_memory_stats` or a new configuration."""
    return memory.peak[index_of(device)]


def reset_peak_memory_stats(device: Device = None) -> None:
    index = index_of(device)
    memory.peak[index] = memory.used[index]


def memory_stats(device: Device = None) -> OrderedDict[str, int]:
    index = index_of(device)
    now, most = memory.used[index], memory.peak[index]
    keys = ("active_bytes", "allocated_bytes", "reserved_bytes")
    return OrderedDict((f"{key}.all.{when}", size) for key in keys for when, size in (("current", now), ("peak", most)))


def memory_summary(device: Device = None, abbreviated: bool = False) -> str:
    """What is in use, what the peak was, what is free and what is there, a line each."""
    index = index_of(device)
    sizes = {"in use": memory.used, "peak": memory.peak, "capacity": memory.capacity}
    lines = [f"  {name:<9}{memory.text(per_device[index]):>12}" for name, per_device in sizes.items()]
    lines.insert(2, f"  {'free':<9}{memory.text(memory.free(index)):>12}")
    return "\n".join([f"{get_device_name(index)} ({NAME}:{index})", *lines])


memory_reserved, max_memory_reserved, get_memory_info = memory_allocated, max_memory_allocated, mem_get_info
reset_accumulated_memory_stats = reset_peak_memory_stats
empty_cache = empty_host_cache = ipc_collect = _nothing


# -- time: streams and events order nothing ----------------------------------------------------------------------------

synchronize = _nothing


class Event:
    """Stands where `torch.cuda.Event` stands; its time is the host's."""

    query, synchronize, wait = _yes, _nothing, _nothing

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._recorded: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._recorded = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to `end`. RuntimeError where one of them was not recorded."""
        if self._recorded is None or end._recorded is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end._recorded - self._recorded) * 1000


class Stream:
    """Stands where `torch.cuda.Stream` stands, also as the context manager that `torch.cuda.stream` gives."""

    query, synchronize, wait_stream, wait_event, __exit__ = _yes, _nothing, _nothing, _nothing, _nothing

    def __init__(self, device: Device = None, priority: int = 0) -> None:
        self.device_index, self.priority = index_of(device), priority

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self) -> Stream:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.device_index == self.device_index

    def __hash__(self) -> int:
        return hash(("simgpu stream", self.device_index))


current_stream = default_stream = Stream


def stream(stream: Stream | None) -> AbstractContextManager[object]:
    """Context manager: what runs inside it runs as always."""
    return stream or nullcontext()


def _is_in_bad_fork() -> bool:
    return False


# -- random numbers come from the CPU's generator, so a seed gives the CPU's numbers -----------------------------------


def manual_seed(seed: int) -> None:
    """Seeds the CPU's generator, which draws for simulated devices too."""
    torch.default_generator.manual_seed(int(seed))


manual_seed_all, initial_seed = manual_seed, torch.initial_seed


def get_rng_state(device: Device = None) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: Device = None) -> None:
    torch.set_rng_state(state.cpu())


def get_rng_state_all() -> list[torch.Tensor]:
    return [torch.get_rng_state()] * visible


def set_rng_state_all(states: list[torch.Tensor]) -> None:
    for state in states[:1]:
        set_rng_state(state)


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.bfloat16, torch.float16]
