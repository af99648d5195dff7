"""Who holds GPU memory: the processes that the NVIDIA driver lists, with what it can't name as a remainder."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from diag.values.redact import redact

_PLACES = ("/usr/lib/wsl/lib/nvidia-smi", r"C:\Windows\System32\nvidia-smi.exe")
_SECONDS = 20


@dataclass(frozen=True)
class Holder:
    """A process with memory on a GPU. `pid` and `nbytes` are None where the driver does not tell (other containers).

    `owner` is `this process`, `this user`, `another user` or `unknown`.
    """

    uuid: str
    pid: int | None
    program: str
    owner: str
    nbytes: int | None


@dataclass(frozen=True)
class ComputeMode:
    """Who may use a GPU: `mode` is Default, Exclusive_Process or Prohibited, as nvidia-smi says it."""

    index: str
    uuid: str
    mode: str


def compute_modes() -> tuple[ComputeMode, ...]:
    """The compute mode of every NVIDIA GPU; empty without nvidia-smi. Never raises."""
    rows = _ask("--query-gpu=index,uuid,compute_mode")
    return tuple(ComputeMode(*row[:3]) for row in rows if len(row) >= 3)


def gpu_holders() -> tuple[Holder, ...]:
    """The holders on every NVIDIA GPU, largest first; empty without nvidia-smi. Never raises.

    What is used beyond the listed processes is one more row with the program `not listed`.
    """
    gpus = _ask("--query-gpu=uuid,memory.used")
    listed = [
        _holder(row) for row in _ask("--query-compute-apps=gpu_uuid,pid,process_name,used_memory") if len(row) >= 4
    ]
    for uuid, used, *_ in gpus:
        known = sum(holder.nbytes or 0 for holder in listed if holder.uuid == uuid)
        if (rest := (_mib(used) or 0) - known) > 0:
            listed.append(Holder(uuid, None, "not listed", "unknown", rest))
    return tuple(sorted(listed, key=lambda holder: -(holder.nbytes or 0)))


def _ask(query: str) -> Sequence[list[str]]:
    program = shutil.which("nvidia-smi") or next((place for place in _PLACES if os.path.exists(place)), None)
    if program is None:
        return ()
    command = [program, query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ()
    if done.returncode != 0:
        return ()
    return [[field.strip() for field in row] for row in csv.reader(done.stdout.splitlines()) if len(row) >= 2]


def _holder(row: list[str]) -> Holder:
    uuid, pid, *program, used = row
    number = int(pid) if pid.isdigit() else None
    return Holder(uuid, number, redact(",".join(program)), _owner(number), _mib(used))


def _mib(text: str) -> int | None:
    return int(text) * 2**20 if text.isdigit() else None


def _owner(pid: int | None) -> str:
    if pid is None:
        return "unknown"
    if pid == os.getpid():
        return "this process"
    try:
        import psutil

        mine, theirs = psutil.Process().username(), psutil.Process(pid).username()
    except Exception:  # psutil absent, or the process is another container's: its number means nothing here
        return "unknown"
    return "this user" if mine == theirs else "another user"
