"""Asks torch about the accelerators, in a process of its own.

Run as a script, so that a torch that is broken, crashes or hangs breaks only that process, and so that the caller gets
no CUDA context of its own: that would take GPU memory and forbid it to fork.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

SECONDS = 90
_MARK = "diag-devices:"


@dataclass(frozen=True)
class Device:
    """One accelerator: `name` such as `cuda:0`, its `model`, bytes (None where the backend does not tell), its uuid."""

    name: str
    model: str
    free_bytes: int | None
    total_bytes: int | None
    uuid: str = ""


@dataclass(frozen=True)
class TorchState:
    """What torch said about itself; `error` is empty where it could be imported and asked."""

    version: str = ""
    built_for: str = ""
    devices: tuple[Device, ...] = ()
    error: str = ""


def ask_torch(seconds: float = SECONDS) -> TorchState:
    """The accelerators as torch sees them now (1 to 3 s). Never raises: what went wrong is in `error`."""
    if not sys.executable:
        return TorchState(error="torch was not asked: this interpreter does not know its own program file.")
    # -P: the script's own folder is not searched for modules.
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return TorchState(error=f"torch did not answer within {seconds:.0f} s.")
    except OSError as e:
        return TorchState(error=f"torch was not asked: {e}.")
    line = next((text for text in done.stdout.splitlines() if text.startswith(_MARK)), None)
    if line is None:
        return TorchState(error=f"torch ended its process: {_how(done.returncode)}. {_last_line(done.stderr)}".strip())
    answer = json.loads(line.removeprefix(_MARK))
    return TorchState(**{**answer, "devices": tuple(Device(**device) for device in answer["devices"])})


def _how(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    known = {member.value: member.name for member in signal.Signals}
    return known.get(-code, f"signal {-code}")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _look() -> dict[str, Any]:
    """In the child. Every kind of accelerator goes through torch.accelerator, CUDA alone before torch 2.6."""
    state: dict[str, Any] = {"version": "", "built_for": "", "devices": [], "error": ""}
    try:
        import torch

        state["version"] = str(torch.__version__)
        state["built_for"] = _built_for(torch)
        kind = _kind(torch)
        if kind:
            state["devices"] = [_device(torch, kind, i) for i in range(torch.get_device_module(kind).device_count())]
    except BaseException as e:  # a broken torch raises what it likes, SystemExit included
        state["error"] = f"{type(e).__name__}: {e}"
    return state


def _built_for(torch: Any) -> str:
    for name in ("cuda", "hip", "xpu"):
        if version := getattr(torch.version, name, None):
            return f"{name} {version}"
    return "cpu"


def _kind(torch: Any) -> str:
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is None:
        return "cuda" if torch.cuda.is_available() else ""
    return accelerator.current_accelerator().type if accelerator.is_available() else ""


def _device(torch: Any, kind: str, index: int) -> dict[str, Any]:
    module = torch.get_device_module(kind)
    free, total = _memory(module, kind, index)
    properties = module.get_device_properties(index) if hasattr(module, "get_device_properties") else None
    model, uuid = getattr(properties, "name", kind), getattr(properties, "uuid", "")
    return {"name": f"{kind}:{index}", "model": model, "free_bytes": free, "total_bytes": total, "uuid": str(uuid)}


def _memory(module: Any, kind: str, index: int) -> tuple[int | None, int | None]:
    if kind == "mps":  # unified memory: what Metal recommends to stay below, less what it holds
        total = int(module.recommended_max_memory())
        return total - int(module.driver_allocated_memory()), total
    if not hasattr(module, "mem_get_info"):
        return None, None
    free, total = module.mem_get_info(index)
    return int(free), int(total)


if __name__ == "__main__":
    print(f"{_MARK}{json.dumps(_look())}")
