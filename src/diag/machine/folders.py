"""Where a file that does not exist yet would be written."""

from __future__ import annotations

from pathlib import Path


def nearest_existing(path: Path) -> Path:
    """The path itself or the first of its parents that exists; the current folder where none does."""
    return next((one for one in (path, *path.parents) if one.exists()), Path.cwd())
