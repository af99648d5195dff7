"""What a plan needs to be carried out: layers that a kernel fits, an adapter, a folder for weights on disk."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from diag.errors import CheckpointError, CouldNotJudgeError, UnsupportedError
from diag.loading.bitsandbytes_private import BLOCK, ROWS_TOGETHER
from diag.loading.planning import Plan
from diag.machine.folders import nearest_existing
from diag.values.spec import LoadSpec
from diag.values.units import format_size

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+\Z")


def check_needs(plan: Plan, written: int = 0) -> None:
    """All that a plan needs to be carried out; `written` bytes go to its offload folder. Raises DiagError."""
    if plan.packed.unfit:
        raise _unfit_layers(plan.packed.unfit)
    check_adapter(plan.spec, plan.needs_disk)
    if plan.needs_disk:
        check_offload_folder(plan.spec, written)


def _unfit_layers(names: tuple[str, ...]) -> UnsupportedError:
    """Layers that load and then fail at the first call, for their shape."""
    return UnsupportedError(
        f"{len(names)} layers can't be computed in 4 bits on this CPU, {names[0]!r} among them.",
        why=f"on a CPU with AVX512-BF16 bitsandbytes needs out_features to be a multiple of {ROWS_TOGETHER} "
        f"and in_features of {BLOCK}, and fails at the first call (_convert_weight_packed_for_cpu in "
        "bitsandbytes/functional.py, 0.50.2).",
        next_step="use int8 or none on this CPU, or a map on an accelerator.",
    )


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
