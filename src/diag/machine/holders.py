"""Who holds GPU memory, and who may use a GPU: what the NVIDIA driver tells through its library, NVML."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from diag.values.redact import redact

# nvmlComputeMode_t in nvml.h, in the words of nvidia-smi
_MODES = {0: "Default", 1: "Exclusive_Thread", 2: "Prohibited", 3: "Exclusive_Process"}


@dataclass(frozen=True)
class Holder:
    """A process with memory on a GPU. `pid` and `nbytes` are None where the driver does not tell (other containers).
    `owner` is `this process`, `this user`, `another user` or `unknown`."""

    uuid: str
    pid: int | None
    program: str
    owner: str
    nbytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU. `mode` says who may use it: Default, Exclusive_Process, Prohibited, or empty if not told. What is
    used beyond the listed processes is one more holder with the program `not listed`."""

    index: int
    uuid: str
    mode: str
    holders: tuple[Holder, ...]


def gpu_holders() -> tuple[Holder, ...]:
    """The holders on every NVIDIA GPU, largest first; empty without a driver. Never raises."""
    found = (holder for gpu in nvidia_gpus() for holder in gpu.holders)
    return tuple(sorted(found, key=lambda holder: -(holder.nbytes or 0)))


def nvidia_gpus() -> tuple[Gpu, ...]:
    """Every GPU that the NVIDIA driver lists now, in the driver's order; empty without a driver. Never raises."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, or a driver that is broken
        return ()

    def ask(question: Callable[..., Any], *about: object) -> Any:
        """The driver's answer, or None where it has none for this GPU or this user."""
        try:
            return question(*about)
        except pynvml.NVMLError:
            return None

    try:
        handles = [ask(pynvml.nvmlDeviceGetHandleByIndex, i) for i in range(ask(pynvml.nvmlDeviceGetCount) or 0)]
        return tuple(_gpu(pynvml, ask, index, handle) for index, handle in enumerate(handles) if handle is not None)
    finally:
        ask(pynvml.nvmlShutdown)


def _gpu(nvml: ModuleType, ask: Callable[..., Any], index: int, handle: object) -> Gpu:
    uuid = ask(nvml.nvmlDeviceGetUUID, handle) or ""
    mode = _MODES.get(ask(nvml.nvmlDeviceGetComputeMode, handle), "")
    holders = []
    for process in ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
        program = redact(ask(nvml.nvmlSystemGetProcessName, process.pid) or "not named")
        holders.append(Holder(uuid, process.pid, program, owner_of(process.pid), process.usedGpuMemory))
    # version 2 leaves out what the driver keeps for itself, as nvidia-smi does; drivers before 510 don't have it
    read = nvml.nvmlDeviceGetMemoryInfo
    memory = ask(read, handle, nvml.nvmlMemory_v2) or ask(read, handle)
    rest = (memory.used if memory else 0) - sum(holder.nbytes or 0 for holder in holders)
    if rest > 0:
        holders.append(Holder(uuid, None, "not listed", "unknown", rest))
    return Gpu(index, uuid, mode, tuple(holders))


def owner_of(pid: int) -> str:
    """Whose a process is: `this process`, `this user`, `another user` or `unknown`."""
    if pid == os.getpid():
        return "this process"
    try:
        import psutil

        mine, theirs = psutil.Process().username(), psutil.Process(pid).username()
    except Exception:  # psutil absent, or the process is another container's: its number means nothing here
        return "unknown"
    return "this user" if mine == theirs else "another user"
