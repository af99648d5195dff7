"""Where files go on this computer: diag's own cache, the hub's cache, and where a missing file would be written."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Where diag keeps what it can make again: `DIAG_CACHE`, else `diag` in the user's cache folder of this system."""
    if chosen := os.environ.get("DIAG_CACHE"):
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("diag", appauthor=False))


def hub_cache_folder() -> Path:
    """Where downloaded models are; works where huggingface_hub does not. Source: huggingface_hub/constants.py, which
    takes `~/.cache` on every system."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser() / "hub"


def nearest_existing(path: Path) -> Path:
    """The path itself or the first of its parents that exists; the current folder where none does."""
    return next((one for one in (path, *path.parents) if one.exists()), Path.cwd())
