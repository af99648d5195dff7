"""What a load needs besides its checkpoint: devices, an adapter, a folder for weights on disk. Reads no weight."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from diag.errors import CheckpointError, CouldNotJudgeError, SpecError, UnsupportedError
from diag.loading.packing import refuse_unfit
from diag.machine.folders import nearest_existing
from diag.machine.here import accelerator_name, device_count
from diag.values.spec import LoadSpec
from diag.values.units import format_size

if TYPE_CHECKING:
    from diag.loading.planning import Plan

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+\Z")


def check_devices(spec: LoadSpec) -> None:
    """Raises SpecError where the spec's own map names an accelerator that this machine does not have."""
    if isinstance(spec.device_map, str) or spec.simulated:
        return
    kind, count = accelerator_name(), device_count()
    there = {"cpu", "disk", "meta", *(str(i) for i in range(count)), *(f"{kind}:{i}" for i in range(count))}
    there |= {kind} if kind else set()
    for name, device in dict(spec.device_map).items():
        if str(device) not in there:
            have = f"{count} {kind} devices: {', '.join(map(str, range(count)))}" if kind else "no accelerator"
            raise SpecError(
                f"the device map puts {repr(name) if name else 'the whole model'} on {device!r}, which is not there.",
                why=f"this machine has {have}.",
                next_step="name a device that is there, or simulate the machine: hardware='2x24GiB+64GiB'.",
            )


def check_needs(plan: Plan, written: int = 0) -> None:
    """All that a plan needs to be carried out; `written` bytes go to its offload folder. Raises DiagError."""
    refuse_unfit(plan.packed)
    check_adapter(plan.spec, plan.needs_disk)
    if plan.needs_disk:
        check_offload_folder(plan.spec, written)


def check_adapter(spec: LoadSpec, needs_disk: bool) -> None:
    """Raises CheckpointError for an adapter that is not there, UnsupportedError for one on an offloaded base."""
    if spec.adapter is None:
        return
    folder = Path(spec.adapter)
    if folder.is_dir() and not (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{spec.adapter!r} holds no PEFT adapter.",
            why="there is no adapter_config.json in that folder.",
            next_step="name the folder that PeftModel.save_pretrained wrote.",
        )
    if not folder.is_dir() and not _HUB_ID.match(spec.adapter):
        raise CheckpointError(
            f"the adapter folder {spec.adapter!r} does not exist.",
            why=f"the current folder is {str(Path.cwd())!r}.",
            next_step="name the folder that PeftModel.save_pretrained wrote, or a hub id (owner/name).",
        )
    if needs_disk:
        raise UnsupportedError(
            "an adapter on a base that is offloaded to disk is refused.",
            why="PEFT would rewrite the base's own checkpoint files (peft 0.21.2, PeftModel._update_offload).",
            next_step="use a map without disk, or merge the adapter first and load the merged model.",
        )


def check_offload_folder(spec: LoadSpec, nbytes: int = 0) -> None:
    """Raises CouldNotJudgeError where weights that go to disk would not fit, or can't be written.

    `nbytes` is what the load will write: nothing for safetensors, which are read where they are.
    """
    if spec.offload_folder is None:
        folder, name = Path(tempfile.gettempdir()), "the folder for temporary files"
    else:
        folder, name = Path(spec.offload_folder), "the offload folder"
    if folder.exists() and not folder.is_dir():
        raise CouldNotJudgeError(f"{name} {str(folder)!r} is a file.", next_step="give a folder as offload_folder.")
    there = nearest_existing(folder)
    _try_to_write(there, f"{name} {str(folder)!r}")
    free = shutil.disk_usage(there).free
    if free < nbytes:
        raise CouldNotJudgeError(
            f"there is no room in {name} {str(folder)!r}.",
            why=f"{format_size(nbytes)} of weights are written there, and {format_size(free)} are free.",
            next_step="make room, give an offload_folder on another disk, or use safetensors: they are not copied.",
        )


def _try_to_write(folder: Path, what: str) -> None:
    try:
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write to {str(folder)!r}")
        tempfile.TemporaryFile(dir=folder).close()  # root may write anywhere, and yet not into /proc
    except OSError as e:
        raise CouldNotJudgeError(
            f"{what} can't be written to.",
            why=str(e),
            next_step="give another offload_folder, or change its permissions.",
        ) from e
