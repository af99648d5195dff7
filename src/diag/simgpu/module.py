"""The backend module, `torch.simgpu`: what PyTorch and its libraries ask a device type."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from diag.simgpu import memory, streams
from diag.simgpu.private import NAME
from diag.values.units import format_size


class Module:
    """Stands where `torch.cuda` stands. Sizes in bytes; a device is an index, a name or a torch.device."""

    def __init__(self) -> None:
        self.__name__ = f"torch.{NAME}"
        self.visible = 0  # how many devices the process is told about
        self._local = threading.local()

    # -- which devices
    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.visible > 0

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def device_count(self) -> int:
        return self.visible

    def current_device(self) -> int:
        return getattr(self._local, "index", 0)

    def set_device(self, device: Any) -> None:
        self._local.index = self.index(device)

    def device(self, device: Any) -> _Current:
        """Context manager: the current device inside it."""
        return _Current(self, self.index(device))

    def index(self, device: Any) -> int:
        """The index a device stands for; None and no index mean the current one. RuntimeError if none such."""
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, torch.device):
            device = device.index
        index = self.current_device() if device is None else int(device)
        if not 0 <= index < len(memory.capacity) or (not memory.capacity[index] and not memory.used[index]):
            count = sum(1 for size in memory.capacity if size)
            raise RuntimeError(f"{NAME} error: invalid device ordinal: {index}. This simulation has {count} device(s).")
        return index

    def get_device_name(self, device: Any = None) -> str:
        return f"Simulated GPU {self.index(device)}"

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return (0, 0)

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        index = self.index(device)
        return SimpleNamespace(
            name=self.get_device_name(index), total_memory=memory.capacity[index], major=0, minor=0,
            multi_processor_count=1, is_integrated=False, simulated=True,
        )  # fmt: skip

    # -- memory
    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Free and total bytes; what simulated others hold is not free."""
        index = self.index(device)
        return memory.free(index), memory.capacity[index]

    def memory_allocated(self, device: Any = None) -> int:
        return memory.used[self.index(device)]

    memory_reserved = memory_allocated

    def max_memory_allocated(self, device: Any = None) -> int:
        """The most bytes at once since the start, `reset_peak_memory_stats` or a new configuration."""
        return memory.peak[self.index(device)]

    max_memory_reserved = max_memory_allocated

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        index = self.index(device)
        memory.peak[index] = memory.used[index]

    reset_accumulated_memory_stats = reset_peak_memory_stats

    def memory_stats(self, device: Any = None) -> OrderedDict[str, int]:
        index = self.index(device)
        now, most = memory.used[index], memory.peak[index]
        keys = ("active_bytes", "allocated_bytes", "reserved_bytes")
        return OrderedDict(
            (f"{key}.all.{when}", value) for key in keys for when, value in (("current", now), ("peak", most))
        )

    def get_memory_info(self, device: Any = None) -> tuple[int, int]:
        return self.mem_get_info(device)

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def memory_summary(self, device: Any = None, abbreviated: bool = False) -> str:
        """What is in use, at most was, is free and is there, a line each."""
        index = self.index(device)
        values = {"in use": memory.used[index], "peak": memory.peak[index], "free": memory.free(index),
                  "capacity": memory.capacity[index]}  # fmt: skip
        lines = [f"  {name:<9}{format_size(size):>12}" for name, size in values.items()]
        return "\n".join([f"{self.get_device_name(index)} ({NAME}:{index})", *lines])

    ipc_collect = empty_host_cache = empty_cache

    # -- time: everything has happened when a call returns
    Stream: Any = streams.Stream
    Event: Any = streams.Event

    def synchronize(self, device: Any = None) -> None:
        """Nothing is pending."""

    def current_stream(self, device: Any = None) -> streams.Stream:
        return streams.Stream(device)

    default_stream = current_stream

    def stream(self, stream: streams.Stream | None) -> Any:
        """Context manager: what runs inside it runs as always."""
        return stream or nullcontext()

    def _is_in_bad_fork(self) -> bool:
        return False

    # -- random numbers come from the CPU's generator, so a seed gives the CPU's numbers
    def manual_seed(self, seed: int) -> None:
        """Seeds the CPU's generator, which draws for simulated devices too."""
        torch.default_generator.manual_seed(int(seed))

    manual_seed_all = manual_seed

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state.cpu())

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [torch.get_rng_state()] * self.visible

    def set_rng_state_all(self, states: list[torch.Tensor]) -> None:
        for state in states[:1]:
            self.set_rng_state(state)

    def initial_seed(self) -> int:
        return torch.initial_seed()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Current:
    """`with torch.simgpu.device(1):`"""

    def __init__(self, module: Module, index: int) -> None:
        self.module, self.index = module, index

    def __enter__(self) -> None:
        self.before = self.module.current_device()
        self.module.set_device(self.index)

    def __exit__(self, *exc: object) -> None:
        self.module._local.index = self.before


backend = Module()
