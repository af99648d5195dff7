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
from diag.values.redact import redact

_FORMAT, _VERSION = "diag baseline", 1
_KEPT = ("model", "device_map", "quantization", "hardware", "status", "n_missing", "n_quantized", "n_offloaded",
         "error_type", "answer", "reason", "spec", "facts")  # fmt: skip
_NOTHING = type(None)
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "device_map", "quantization", "hardware", "status"), (str,)),
    **dict.fromkeys(("n_missing", "n_quantized", "n_offloaded"), (int, float, _NOTHING)),
    **dict.fromkeys(("error_type", "answer", "reason"), (str, _NOTHING)),
    **dict.fromkeys(("spec", "facts"), (dict, _NOTHING)),
}
_FACTS = ("digest", "dtype", "checkpoint")


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
    version = value.get("version", 0)
    if isinstance(version, int) and version > _VERSION:
        raise SpecError(f"the baseline {name!r} was written by a newer diag.", next_step="upgrade diag.")
    wrong = _damage(value)
    if wrong:
        raise SpecError(f"the baseline {name!r} is damaged.", why=f"{wrong}.",
                        next_step="make it again with --write-baseline, or take it from a backup.")  # fmt: skip
    return Baseline(tuple(value["rows"]), value.get("versions", {}), value.get("made", ""), name)


def _damage(value: Mapping[str, Any]) -> str:
    """What in a parsed baseline is not as `write_baseline` writes it; empty where all is."""
    if not isinstance(value.get("version", 0), int):
        return f"its version is {value['version']!r}"
    versions = value.get("versions", {})
    if not isinstance(versions, Mapping) or not all(isinstance(text, str) for text in versions.values()):
        return "its library versions are not texts"
    for number, row in enumerate(value["rows"], start=1):
        if not isinstance(row, Mapping):
            return f"row {number} is {row!r}"
        wrong = [name for name, kinds in _KINDS.items() if not isinstance(row.get(name), kinds)]
        wrong += [] if wrong else _wrong_facts(row.get("facts") or {})
        if wrong:
            return f"{wrong[0]!r} of row {number} is missing or not what it should be"
    return ""


def _wrong_facts(facts: Mapping[str, Any]) -> list[str]:
    from diag.sweep.results.sketch import is_sketch

    placed = facts.get("placed") or {}
    sizes = isinstance(placed, Mapping) and all(isinstance(size, (int, float)) for size in placed.values())
    texts = [name for name in _FACTS if not isinstance(facts.get(name), (str, type(None)))]
    mapped = facts.get("map")
    try:
        sound = mapped is None or isinstance(json.loads(mapped), dict)
    except (ValueError, TypeError):
        sound = False
    kept = facts.get("sketch")
    whole = kept in (None, "") or (isinstance(kept, str) and is_sketch(kept))
    return [*texts, *(["placed"] * (not sizes)), *(["map"] * (not sound)), *(["sketch"] * (not whole))]


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
