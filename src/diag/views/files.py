"""What reaches the disk: redacted, and in one step, so that a reader never sees half of a file."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diag.values.redact import redact, redact_values

if TYPE_CHECKING:
    from nbformat import NotebookNode  # not needed for `diag explain --json`


def write_notebook(path: Path, nb: NotebookNode) -> None:
    """Writes a notebook redacted. An OSError names the file."""
    import nbformat

    write_text(path, nbformat.writes(redacted_notebook(nb)))


def redacted_notebook(nb: NotebookNode) -> NotebookNode:
    """A copy without tokens, passwords and home paths."""
    import nbformat

    return nbformat.from_dict(redacted(nb))


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place and moves it there. An OSError names the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException as e:
        temporary.unlink(missing_ok=True)
        if isinstance(e, OSError):  # a full disk names no file, and the others only the temporary one
            raise type(e)(e.errno, e.strerror, str(path)) from e
        raise


def put(write: Callable[..., object], path: Path, *content: object) -> tuple[Path | None, str]:
    """Lets `write` write `content` to `path`, or where that fails to the folder for temporary files.

    Returns where it is, None if nowhere, and what to tell people, which is empty where all went well.
    """
    try:
        write(path, *content)
        return path, ""
    except OSError as error:
        why = f"{error.strerror or error}: {path}"
    other = Path(tempfile.gettempdir()) / path.name
    try:
        write(other, *content)
    except OSError:
        return None, f"{why}, and it could not be put elsewhere either."
    return other, f"{why}. It is in {other} instead."


def redacted(value: Any) -> Any:
    """Every text inside, keys included, without tokens, passwords and home paths; pictures are left alone."""
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted_item(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _redacted_item(key: str, item: object) -> object:
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
