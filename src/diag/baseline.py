"""The baseline file: what a matrix run came to, kept as JSON for later runs to be held against."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diag.errors import SpecError
from diag.redact import redact

_FORMAT, _VERSION = "diag baseline", 1
_KEPT = ("model", "device_map", "quantization", "hardware", "status", "n_missing", "n_quantized", "n_offloaded",
         "error_type", "answer", "reason", "spec", "facts")  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """The rows of an earlier run, with the library versions it ran with and when (ISO 8601, UTC)."""

    rows: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, str]
    made: str
    path: str = ""

    @property
    def models(self) -> set[str]:
        return {str(row["model"]) for row in self.rows}


def read_baseline(path: str | os.PathLike[str]) -> Baseline:
    """Raises SpecError for a file that is not there, or no baseline of this version of diag."""
    name = os.fspath(path)
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise SpecError(
            f"there is no baseline {name!r}.", next_step="make it first: the same command with --write-baseline."
        ) from e
    except (OSError, ValueError) as e:
        raise SpecError(f"the baseline {name!r} can't be read.", why=f"{type(e).__name__}: {e}",
                        next_step="make it again with --write-baseline.") from e  # fmt: skip
    if not isinstance(value, dict) or value.get("format") != _FORMAT or not isinstance(value.get("rows"), list):
        raise SpecError(f"{name!r} is no baseline of diag.", next_step="make one with --write-baseline.")
    if value.get("version", 0) > _VERSION:
        raise SpecError(f"the baseline {name!r} was written by a newer diag.", next_step="upgrade diag.")
    return Baseline(tuple(value["rows"]), value.get("versions", {}), value.get("made", ""), name)


def write_baseline(
    path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]
) -> None:
    """Writes the rows in one step, redacted; the folder is made. Raises OSError where it can't be written."""
    kept = [{name: _clean(row.get(name)) for name in _KEPT} for row in rows]
    value = {"format": _FORMAT, "version": _VERSION, "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
             "versions": dict(versions), "rows": kept}  # fmt: skip
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _clean(value: Any) -> Any:
    """Plain and redacted: texts without tokens and home paths, missing values as null."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return _clean(value.item()) if hasattr(value, "item") else None
