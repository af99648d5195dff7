"""Simulated GPUs: devices `simgpu:0 …` of PyTorch whose memory is the CPU's.

Tensors have data and models compute their true answer; placement, offload, mismatches and memory
are as on a machine with GPUs. Importing this package loads nothing; `activate` does. What the
simulation can't show is in docs/simulated-gpus.md.

>>> from diag.values.hardware import Hardware
>>> activate(Hardware.parse("2x1GiB"))        # doctest: +SKIP
>>> torch.ones(2, device="simgpu:1") * 2      # doctest: +SKIP
tensor([2., 2.], device='simgpu:1')
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diag.values.hardware import Hardware

__all__ = ["activate", "host_bytes", "is_active", "max_memory", "park"]

_lock = threading.Lock()
_registered = False
_current: Hardware | None = None


def activate(hardware: Hardware) -> None:
    """Gives this process the simulated GPUs of `hardware`, and nothing else that it had as accelerator.

    The device type is registered once and stays until the process ends. A second call changes
    the number of devices, their sizes and what others hold, and starts the peaks anew.
    Raises DiagError on a PyTorch this was not tested with, where another library has taken the
    slot for a device type, and where live tensors do not fit the new hardware; then nothing changes.
    """
    global _current, _registered
    with _lock:
        if not _registered:
            _register()
            _registered = True
        from diag.simgpu import memory
        from diag.simgpu.module import backend

        if hardware != _current or not backend.visible:
            _check_fits(hardware)
            memory.configure(hardware.gpus, hardware.taken)
        backend.visible = len(hardware.gpus)
        _current = hardware


def park() -> None:
    """Hides the simulated GPUs: the process looks as if it had no accelerator beyond its own.

    Live simulated tensors and models go on working. `activate` brings the devices back.
    """
    if _registered:
        from diag.simgpu.module import backend

        backend.visible = 0


def is_active() -> bool:
    """Whether simulated GPUs are visible in this process now."""
    if not _registered:
        return False
    from diag.simgpu.module import backend

    return backend.visible > 0


def max_memory(hardware: Hardware) -> dict[int | str, int]:
    """Bytes to plan with, as `from_pretrained(max_memory=…)` takes them: each GPU, then the host.

    What others hold is taken off, and so is what lives on the devices now if `hardware` is active.
    """
    held = [0] * len(hardware.gpus)
    if is_active() and hardware == _current:
        from diag.simgpu import memory

        held = memory.used[: len(hardware.gpus)]
    sizes = zip(hardware.gpus, hardware.taken, held)
    planned: dict[int | str, int] = {
        index: max(0, size - others - mine) for index, (size, others, mine) in enumerate(sizes)
    }
    planned["cpu"] = host_bytes(hardware)
    return planned


def host_bytes(hardware: Hardware | None = None) -> int:
    """Bytes of host memory to plan with: the simulated size, or what is available here if less."""
    from diag.machine.memory import host_memory

    hardware = _current if hardware is None else hardware
    available = host_memory().free
    return available if hardware is None or hardware.host is None else min(hardware.host, available)


def _register() -> None:
    from diag.simgpu import dispatch, private
    from diag.simgpu.module import backend
    from diag.simgpu.patches import libraries as library_patches
    from diag.simgpu.patches import refusals, sharing
    from diag.simgpu.patches import torch as torch_patches

    private.check_torch()
    torch_patches.remember_accelerator()
    private.register(backend, backend.is_available)
    dispatch.install()
    torch_patches.install()
    library_patches.install()
    refusals.install()
    sharing.install()


def _check_fits(hardware: Hardware) -> None:
    """Raises DiagError when tensors that are alive do not fit the new devices."""
    import gc

    from diag.errors import DiagError
    from diag.simgpu import memory

    def too_large() -> list[str]:
        free = [*hardware.free, *[0] * (memory.MAX_DEVICES - len(hardware.gpus))]
        return [
            f"simgpu:{index} holds {memory.text(held)} and would have {memory.text(free[index])}"
            for index, held in enumerate(memory.used)
            if held > free[index]
        ]

    if too_large():
        gc.collect()
    if problems := too_large():
        raise DiagError(
            f"the simulated hardware can't become {hardware}: {'; '.join(problems)}.",
            why="tensors of an earlier load are still alive in this process.",
            next_step="delete that model (del model, outcome; gc.collect()), or load in a fresh process.",
        )
