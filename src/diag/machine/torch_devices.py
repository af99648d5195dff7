"""Asks torch about the accelerators, in a process of its own.

A torch that is broken, crashes or hangs then breaks only that process, and the caller gets no CUDA context: that would
take GPU memory and forbid it to fork.
"""

import functools
import json
import subprocess
import sys
from dataclasses import dataclass

from diag.machine import torch_child
from diag.values.exits import death_name
from diag.values.text import last_line
from diag.values.units import format_seconds

SECONDS = 90


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
    command = [sys.executable, "-P", torch_child.__file__]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return TorchState(error=f"torch did not answer within {format_seconds(seconds)}.")
    except OSError as e:
        return TorchState(error=f"torch was not asked: {e}.")
    line = next((text for text in done.stdout.splitlines() if text.startswith(torch_child.MARK)), None)
    if line is None:
        died = death_name(done.returncode)
        return TorchState(error=f"torch ended its process: {died}. {last_line(done.stderr)}".strip())
    answer = json.loads(line.removeprefix(torch_child.MARK))
    return TorchState(**{**answer, "devices": tuple(Device(**device) for device in answer["devices"])})


@functools.cache
def accelerators() -> tuple[Device, ...]:
    """The accelerators as torch sees them, asked once in a process."""
    return ask_torch().devices
