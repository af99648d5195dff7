"""The baseline file: what a matrix run came to, kept as JSON for later runs to be held against."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diag.errors import SpecError
from diag.sweep.results.sketch import numbers_in
from diag.sweep.results.store import Row
from diag.values.redact import redact_values

_FORMAT, _VERSION = "diag baseline", 1
_KINDS: Mapping[str, tuple[type, ...]] = {  # what is kept of a row, and the types it may have
    **dict.fromkeys(("model", "device_map", "quantization", "hardware", "status"), (str,)),
    **dict.fromkeys(("n_missing", "n_quantized", "n_offloaded"), (int, float, type(None))),
    **dict.fromkeys(("error_type", "answer", "reason"), (str, type(None))),
    **dict.fromkeys(("spec", "facts"), (dict, type(None))),
}


@dataclass(frozen=True)
class Baseline:
    """The rows of an earlier run, and the library versions it ran with."""

    rows: tuple[Row, ...]
    versions: Mapping[str, str]
    path: str = ""

    @property
    def models(self) -> set[str]:
        return {str(row["model"]) for row in self.rows}


def read_baseline(path: str | os.PathLike[str]) -> Baseline:
    """Raises SpecError for a file that is not there, or no baseline of this version of diag."""
    name, again = os.fspath(path), "make it again with --write-baseline"
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        what = f"there is no baseline {name!r}."
        raise SpecError(what, next_step="make it first: the same command with --write-baseline.") from e
    except (OSError, ValueError) as e:
        why = f"{type(e).__name__}: {e}"
        raise SpecError(f"the baseline {name!r} can't be read.", why=why, next_step=f"{again}.") from e
    if not isinstance(value, dict) or value.get("format") != _FORMAT or not isinstance(value.get("rows"), list):
        raise SpecError(f"{name!r} is no baseline of diag.", next_step="make one with --write-baseline.")
    version = value.get("version", 0)
    if isinstance(version, int) and version > _VERSION:
        raise SpecError(f"the baseline {name!r} was written by a newer diag.", next_step="upgrade diag.")
    if wrong := _damage(value):
        again += ", or take it from a backup."
        raise SpecError(f"the baseline {name!r} is damaged.", why=f"{wrong}.", next_step=again)
    return Baseline(tuple(value["rows"]), value.get("versions", {}), name)


def _damage(value: Mapping[str, Any]) -> str:
    """What in a parsed baseline is not as `write_baseline` writes it; empty where all is."""
    if not isinstance(value.get("version", 0), int):
        return f"its version is {value['version']!r}"
    versions, rows = value.get("versions", {}), value["rows"]
    if not isinstance(versions, Mapping) or not all(isinstance(text, str) for text in versions.values()):
        return "its library versions are not texts"
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            return f"row {number} is {row!r}"
        wrong = [name for name, kinds in _KINDS.items() if not isinstance(row.get(name), kinds)]
        if wrong := wrong or _wrong_facts(row.get("facts") or {}):
            return f"{wrong[0]!r} of row {number} is missing or not what it should be"
    return ""


def _wrong_facts(facts: Mapping[str, object]) -> list[str]:
    """Which facts of a row are not as `rows.measured_row` gives them."""
    placed, mapped, kept = facts.get("placed") or {}, facts.get("map"), facts.get("sketch")
    try:
        map_is_sound = mapped is None or (isinstance(mapped, str) and isinstance(json.loads(mapped), dict))
    except ValueError:
        map_is_sound = False
    sound = {
        **{name: isinstance(facts.get(name), (str, type(None))) for name in ("digest", "dtype", "checkpoint")},
        "placed": isinstance(placed, Mapping) and all(isinstance(size, (int, float)) for size in placed.values()),
        "map": map_is_sound,
        "sketch": kept in (None, "") or (isinstance(kept, str) and numbers_in(kept) is not None),
    }
    return [name for name, is_sound in sound.items() if not is_sound]


def write_baseline(path: str | os.PathLike[str], rows: Sequence[Row], versions: Mapping[str, str]) -> None:
    """Writes the rows in one step, redacted; the folder is made. Raises OSError where it can't be written."""
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kept = [{name: redact_values(row.get(name)) for name in _KINDS} for row in rows]
    value = {"format": _FORMAT, "version": _VERSION, "made": made, "versions": dict(versions), "rows": kept}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
