"""The checkpoint that a model's name means: a sample, a folder or a hub model, in that order."""

import os
from collections.abc import Mapping
from pathlib import Path

from diag.errors import CheckpointError
from diag.loading import samples
from diag.loading.checkpoint.files import Checkpoint, read_folder

_PINNED: dict[str, str] = {}


def find_checkpoint(model: str) -> Checkpoint:
    """The model's files, checked; a hub model is downloaded where the cache does not hold it.

    Raises CheckpointError when a folder has no config, a shard is missing, damaged or not in the index, or the hub
    model is neither cached nor reachable.
    """
    if model in samples.names():
        return read_folder(samples.path(model), model)
    if os.path.isdir(model):
        return read_folder(Path(model), model)
    if is_local(model) and model not in _PINNED:
        what = f"the folder {model!r} does not exist."
        next_step = "give an existing folder, a hub id (owner/name) or a sample: " + ", ".join(samples.names()) + "."
        raise CheckpointError(what, why=f"the current folder is {os.getcwd()!r}.", next_step=next_step)
    from diag.loading.checkpoint import hub

    folder = Path(_PINNED[model]) if model in _PINNED else hub.fetch(model)
    return read_folder(folder, model, revision=folder.name)


def is_local(model: str) -> bool:
    """Whether this names a sample, a folder, or at least a path, so that the hub need not be asked."""
    is_path = model.startswith((".", "/", "~", "\\")) or model.count("/") > 1 or os.path.isabs(model)
    return is_path or model in samples.names() or os.path.isdir(model) or model in _PINNED


def pin(folders: Mapping[str, str]) -> None:
    """Lets this process take these hub models from these snapshot folders, without asking the hub again."""
    _PINNED.update(folders)
