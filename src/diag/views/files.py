"""What reaches the disk: redacted, and in one step, so that a reader never sees half of a file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diag.redact import redact, redact_values


def write_notebook(nb: Any, path: Path) -> None:
    """Writes a notebook redacted and in one step, so that a reader never sees half of it."""
    import nbformat  # here, so that `diag explain --json` works without it

    write_text(path, nbformat.writes(nbformat.from_dict(redacted(nb))))


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place and moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.chmod(temporary, 0o644 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def redacted(value: Any) -> Any:
    """Every text inside, keys included, without tokens, passwords and home paths; pictures are left alone."""
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted_item(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _redacted_item(key: str, item: Any) -> Any:
    if key.startswith("image/"):
        return item
    return redacted(item) if isinstance(item, (Mapping, list, tuple)) else redact_values({key: item})[key]


@dataclass(frozen=True)
class RedactedFile:
    """Papermill's way to the disk: what it saves after each cell goes out redacted.

    A full disk must not end the run: the rows are in the results file, and the last write will tell.
    """

    path: Path

    def write(self, text: str, path: str) -> None:
        with suppress(OSError):
            write_text(self.path, json.dumps(redacted(json.loads(text)), indent=1, ensure_ascii=False) + "\n")

    def pretty_path(self, path: str) -> str:
        return self.path.name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
