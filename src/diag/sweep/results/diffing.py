"""diff(): what changed between two results files, in words: versions, maps, statuses, sizes, answers. Never time."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diag.errors import DiagError, SpecError
from diag.sweep.results.comparison import Change, compare_rows, row_name
from diag.sweep.results.store import Store
from diag.values.text import count_text
from diag.values.units import format_size

_SAME_PEAK = 0.1  # share by which peaks may differ: they depend on what the allocator had left
_SMALL = 8 * 2**20  # bytes below which a peak is noise


@dataclass(frozen=True)
class RowDiff:
    """One combination that is in both files, and what changed in it."""

    name: str
    changes: tuple[Change, ...]

    @property
    def worse(self) -> bool:
        return any(change.worse for change in self.changes)


@dataclass(frozen=True)
class Diff:
    """What changed from `old` to `new`; `versions` maps a library to both versions, `same` counts unchanged rows."""

    old: str
    new: str
    versions: Mapping[str, tuple[str, str]]
    rows: tuple[RowDiff, ...]
    same: int
    only_old: tuple[str, ...] = ()
    only_new: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        return any(row.worse for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "worse": self.worse, "text": str(self)}

    def __str__(self) -> str:
        lines = [self._first_line()]
        lines += [f"version of {name}: {before} → {after}" for name, (before, after) in self.versions.items()]
        for row in sorted(self.rows, key=lambda row: not row.worse):
            lines.append(f"{'worse' if row.worse else 'changed'}: {row.name}")
            lines += [f"  {change.kind}: {change.text}" for change in row.changes]
        lines += [f"only in {self.old}: {name}" for name in self.only_old]
        lines += [f"only in {self.new}: {name}" for name in self.only_new]
        return "\n".join(lines)

    def _first_line(self) -> str:
        if not (self.rows or self.versions or self.only_old or self.only_new):
            return f"Nothing changed: {self.same} rows are the same in {self.old} and {self.new}."
        worse = sum(row.worse for row in self.rows)
        return (
            f"From {self.old} to {self.new}: {worse} rows got worse, {len(self.rows) - worse} changed otherwise, "
            f"{self.same} are the same, {len(self.only_old)} are gone, {len(self.only_new)} are new."
        )


def diff(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> Diff:
    """Compares the newest row of each spec in both files.

    Raises SpecError for a file that is not there or no results file, DiagError for one that can't be read now.
    """
    before, versions_before = _newest(Path(old))
    after, versions_after = _newest(Path(new))
    pairs, only_old, only_new = _pairs(before, after)
    several = len({str(row["model"]) for row in [*before.values(), *after.values()]}) > 1
    rows = [RowDiff(row_name(b, several), (*compare_rows(a, b), *_sizes(a, b))) for a, b in pairs]
    changed = tuple(row for row in rows if row.changes)
    names = sorted({*versions_before, *versions_after})
    absent = Counter({"absent": 1})
    both = {name: (versions_before.get(name, absent), versions_after.get(name, absent)) for name in names}
    versions = {name: (_in_words(a), _in_words(b)) for name, (a, b) in both.items() if a.keys() != b.keys()}
    return Diff(Path(old).name, Path(new).name, versions, changed, len(rows) - len(changed),
                tuple(row_name(row, several) for row in only_old),
                tuple(row_name(row, several) for row in only_new))  # fmt: skip


def _newest(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Counter[str]]]:
    """The newest row of each spec by the spec's JSON, and how many of them each version of each library made."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    versions: dict[str, Counter[str]] = {}
    with _opened(path) as store:
        for key, row in store.rows().items():
            spec = row.get("spec") or {name: row[name] for name in ("model", "device_map", "quantization", "hardware")}
            found[json.dumps(spec, sort_keys=True)] = (key, row)
        for key, _ in found.values():
            for name, version in ((store.extra(key) or {}).get("versions") or {}).items():
                versions.setdefault(name, Counter())[str(version)] += 1
    return {spec: row for spec, (_, row) in found.items()}, versions


def _opened(path: Path) -> Store:
    """Raises SpecError where the path itself is wrong; a file that is held or not readable now stays a DiagError."""
    try:
        return Store(path, must_exist=True)
    except DiagError as error:
        if isinstance(error.__cause__, sqlite3.OperationalError):
            raise
        raise SpecError(error.what, why=error.why, next_step=error.next_step) from error


def _in_words(versions: Counter[str]) -> str:
    """
    >>> _in_words(Counter({"2.13.0": 2, "2.12.0": 1})), _in_words(Counter({"2.13.0": 3}))
    ('2.13.0 (2 rows) and 2.12.0 (1 row)', '2.13.0')
    """
    if len(versions) == 1:
        return next(iter(versions))
    return " and ".join(f"{name} ({count_text(count, 'row')})" for name, count in versions.most_common())


def _pairs(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> tuple[Any, Any, Any]:
    """Rows of the same spec; of what is left, those whose combination is in each file once (another model folder)."""
    pairs = [(row, after[spec]) for spec, row in before.items() if spec in after]
    left_old = [row for spec, row in before.items() if spec not in after]
    left_new = [row for spec, row in after.items() if spec not in before]
    for row in list(left_old):
        twins = [other for other in left_new if row_name(other) == row_name(row)]
        alone = sum(row_name(other) == row_name(row) for other in left_old) == 1
        if alone and len(twins) == 1:
            pairs.append((row, twins[0]))
            left_old.remove(row)
            left_new.remove(twins[0])
    return pairs, left_old, left_new


def _sizes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Peaks that moved by more than a tenth, host and devices."""
    before, after = _peaks(old), _peaks(new)
    return [
        Change("size", False, f"peak on {name}: {format_size(before[name])} → {format_size(after[name])}")
        for name in sorted({*before} & {*after})
        if abs(after[name] - before[name]) > max(_SMALL, _SAME_PEAK * before[name])
    ]


def _peaks(row: Mapping[str, Any]) -> dict[str, int]:
    found = dict(json.loads(row.get("peak_device_bytes") or "{}"))
    if row.get("peak_host_bytes") is not None:
        found["host"] = row["peak_host_bytes"]
    return found
