"""The backend module, `torch.simgpu`: what PyTorch and its libraries ask a device type, as `torch.cuda` answers it.

Sizes are in bytes. A device is a number, a name or a torch.device; None is the current one.
"""

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import torch
from torch.types import Device

from diag.simgpu import memory
from diag.simgpu.devices import current_index, index_of, set_current_index
from diag.simgpu.private import NAME
from diag.simgpu.streams import Event, Stream

__all__ = ["Event", "Stream"]

visible = 0  # how many devices the process is told about


# -- which devices -----------------------------------------------------------------------------------------------------


def is_initialized() -> bool:
    return True


def is_available() -> bool:
    return visible > 0


def is_bf16_supported(including_emulation: bool = True) -> bool:
    return True


def device_count() -> int:
    return visible


def current_device() -> int:
    return current_index()


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
    return SimpleNamespace(
        name=get_device_name(index),
        total_memory=memory.capacity[index],
        major=0,
        minor=0,
        multi_processor_count=1,
        is_integrated=False,
        simulated=True,
    )


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


def empty_cache() -> None:
    """Nothing is cached."""


memory_reserved, max_memory_reserved, get_memory_info = memory_allocated, max_memory_allocated, mem_get_info
reset_accumulated_memory_stats = reset_peak_memory_stats
ipc_collect = empty_host_cache = empty_cache


# -- time: everything has happened when a call returns -----------------------------------------------------------------


def synchronize(device: Device = None) -> None:
    """Nothing is pending."""


def current_stream(device: Device = None) -> Stream:
    return Stream(device)


default_stream = current_stream


def stream(stream: Stream | None) -> AbstractContextManager[object]:
    """Context manager: what runs inside it runs as always."""
    return stream or nullcontext()


def _is_in_bad_fork() -> bool:
    return False


# -- random numbers come from the CPU's generator, so a seed gives the CPU's numbers -----------------------------------


def manual_seed(seed: int) -> None:
    """Seeds the CPU's generator, which draws for simulated devices too."""
    torch.default_generator.manual_seed(int(seed))


manual_seed_all = manual_seed


def get_rng_state(device: Device = None) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: Device = None) -> None:
    torch.set_rng_state(state.cpu())


def get_rng_state_all() -> list[torch.Tensor]:
    return [torch.get_rng_state()] * visible


def set_rng_state_all(states: list[torch.Tensor]) -> None:
    for state in states[:1]:
        set_rng_state(state)


def initial_seed() -> int:
    return torch.initial_seed()


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.bfloat16, torch.float16]
