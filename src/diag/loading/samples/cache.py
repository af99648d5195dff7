"""Folders made once, whole or not at all, and shared by all processes of a user."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import filelock

from diag.errors import CheckpointError
from diag.values.units import format_size

MANIFEST = "diag-sample.json"
STALE_SECONDS = 3600
_LOCK_SECONDS = 900


def fingerprint(*recipe: str) -> str:
    """Eight letters that change with the recipe's source files, so that nobody has to raise a version number."""
    digest = hashlib.sha256()
    for file in recipe:
        digest.update((Path(__file__).parent / file).read_bytes())
    return digest.hexdigest()[:8]


def folder(final: Path, make: Callable[[Path], None], *, needs: int) -> Path:
    """The folder `final`; `make` fills an empty one when it is not there or not whole.

    `make` works in a private folder that is renamed at the end, so no reader ever sees a half of it and the last of
    two makers loses nothing. The lock only saves work: without it (some network file systems) both would make it.
    `needs` is the room in bytes. Raises CheckpointError where the folder can't be written.
    """
    if is_whole(final):
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(final.parent / f".{final.name}.lock")
        with contextlib.suppress(filelock.Timeout, NotImplementedError):
            lock.acquire(timeout=_LOCK_SECONDS)
        try:
            if not is_whole(final):
                _remove_stale(final.parent)
                free = shutil.disk_usage(final.parent).free
                if free < needs:
                    raise OSError(f"{format_size(needs)} are needed, {format_size(free)} are free")
                _publish(final, make)
        finally:
            lock.release()
    except OSError as e:
        what = f"the sample {final.name!r} can't be written to the cache."
        next_step = "set DIAG_CACHE to a folder with room that you may write to."
        raise CheckpointError(what, why=f"{type(e).__name__}: {e.strerror or e}.", next_step=next_step) from e
    return final


def is_whole(folder: Path) -> bool:
    """Whether every file that the maker left is still there with its size."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _publish(final: Path, make: Callable[[Path], None]) -> None:
    private = Path(tempfile.mkdtemp(prefix=f".making-{final.name}-", dir=final.parent))
    try:
        make(private)
        sizes = {file.name: file.stat().st_size for file in sorted(private.iterdir())}
        (private / MANIFEST).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
        private.chmod(0o755)
        if final.exists() and not is_whole(final):  # somebody damaged it: readers of the old one keep their open files
            os.rename(final, Path(tempfile.mkdtemp(prefix=".making-damaged-", dir=final.parent)) / "old")
        try:
            os.rename(private, final)
        except OSError:
            if not is_whole(final):  # else another maker was first, and its bytes are the same
                raise
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _remove_stale(samples: Path) -> None:
    """Removes what killed makers left: folders nobody has written to for an hour."""
    for left in samples.glob(".making-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
