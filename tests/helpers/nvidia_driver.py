"""An NVIDIA driver for machines without one: a module `pynvml`, found first here and in processes started from here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# A process is its number, its name (None: the driver does not tell) and its bytes (None: not told).
Process = tuple[int, str | None, int | None]

_MODULE = """
from types import SimpleNamespace

GPUS = {gpus!r}
nvmlMemory_v2 = 2

class NVMLError(Exception):
    pass

def nvmlInit():
    {init}

nvmlShutdown = lambda: None
nvmlDeviceGetCount = lambda: len(GPUS)
nvmlDeviceGetHandleByIndex = GPUS.__getitem__
nvmlDeviceGetUUID = lambda gpu: gpu["uuid"]
nvmlDeviceGetComputeMode = lambda gpu: gpu["mode"]

def nvmlDeviceGetMemoryInfo(gpu, version=None):
    if gpu["used"] is None:
        raise NVMLError("Not Supported")
    return SimpleNamespace(used=gpu["used"] if version else gpu["used"] + 500 * 2**20)  # with what the driver keeps

def nvmlDeviceGetComputeRunningProcesses(gpu):
    return [SimpleNamespace(pid=pid, usedGpuMemory=nbytes) for pid, _, nbytes in gpu["processes"]]

def nvmlSystemGetProcessName(pid):
    for gpu in GPUS:
        for number, name, _ in gpu["processes"]:
            if number == pid and name is not None:
                return name
    raise NVMLError("Insufficient Permissions")
"""


def gpu(uuid: str, used: int | None = 0, *processes: Process, mode: int = 0) -> dict[str, object]:
    """One GPU of the driver; `used` are bytes, `mode` a number of nvmlComputeMode_t."""
    return {"uuid": uuid, "used": used, "processes": list(processes), "mode": mode}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *gpus: dict[str, object], init: str = "pass") -> None:
    """From now on this process, and those it starts, ask this driver; `init` is what its nvmlInit does."""
    (folder / "pynvml.py").write_text(_MODULE.format(gpus=list(gpus), init=init), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
