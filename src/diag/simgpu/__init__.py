"""Simulated GPUs: devices `simgpu:0 …` of PyTorch whose memory is the CPU's.

Tensors have data and models compute their true answer; placement, offload, mismatches and memory are as on a machine
with GPUs. Importing this package loads nothing; `activate` does. Open `kernels.py` first; what the simulation can't
show is in docs/simulated-gpus.md.

>>> from diag.values.hardware import Hardware
>>> activate(Hardware.parse("2x1GiB"))        # doctest: +SKIP
>>> torch.ones(2, device="simgpu:1") * 2      # doctest: +SKIP
tensor([2., 2.], device='simgpu:1')
"""

import threading
from collections.abc import Callable

from diag.errors import DiagError
from diag.values.hardware import Hardware

__all__ = ["activate", "is_active", "max_memory", "park"]

_lock = threading.Lock()
_registered = False
_current: Hardware | None = None


def activate(hardware: Hardware, free_host_bytes: Callable[[], int] | None = None) -> None:
    """Gives this process the simulated GPUs of `hardware` in place of any accelerator that it had.

    The device type is registered once and stays until the process ends. A second call changes the number of devices,
    their sizes and what others hold, and starts the peaks anew. `free_host_bytes` says how much host memory plans may
    count on, for the rest of the process; without one it is what the system calls available. Raises DiagError on a
    PyTorch this was not tested with, where another library has registered a device type, and where live tensors do not
    fit the new hardware; then nothing changes.
    """
    global _current, _registered
    with _lock:
        if not _registered:
            _register()
            _registered = True
        from diag.simgpu import backend, memory

        if hardware != _current or not backend.visible:
            _check_fits(hardware)
            memory.configure(hardware)
        memory.free_host_bytes = free_host_bytes or memory.free_host_bytes
        backend.visible = len(hardware.gpus)
        _current = hardware


def park() -> None:
    """Hides the simulated GPUs, so that the process sees its own accelerator again or none.

    Live simulated tensors and models go on working. `activate` brings the devices back.
    """
    if _registered:
        from diag.simgpu import backend

        backend.visible = 0


def is_active() -> bool:
    """Whether simulated GPUs are visible in this process now."""
    if not _registered:
        return False
    from diag.simgpu import backend

    return backend.visible > 0


def max_memory(hardware: Hardware, free_host_bytes: Callable[[], int] | None = None) -> dict[int | str, int]:
    """Bytes to plan with, as `from_pretrained(max_memory=…)` takes them: each GPU, then the host as "cpu".

    What others hold is taken off, and so is what lives on the devices now if `hardware` is active. `free_host_bytes`
    is as in `activate`.
    """
    from diag.simgpu import memory

    held = memory.used if is_active() and hardware == _current else [0] * len(hardware.gpus)
    planned: dict[int | str, int] = dict(enumerate(max(0, free - mine) for free, mine in zip(hardware.free, held)))
    planned["cpu"] = memory.host_bytes(hardware.host, free_host_bytes)
    return planned


def _register() -> None:
    from diag.simgpu import backend, dispatch, private
    from diag.simgpu.patches import libraries, pytorch, refusals

    private.check_torch()
    pytorch.remember_accelerator()
    private.register(backend, backend.is_available)
    dispatch.install()
    pytorch.install()
    libraries.install()
    refusals.install()


def _check_fits(hardware: Hardware) -> None:
    """Raises DiagError when tensors that are alive do not fit the new devices."""
    import gc

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
        what = f"the simulated hardware can't become {hardware}: {'; '.join(problems)}."
        next_step = "delete that model (del model, outcome; gc.collect()), or load in a fresh process."
        raise DiagError(what, why="tensors of an earlier load are still alive in this process.", next_step=next_step)
