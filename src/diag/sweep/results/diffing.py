"""diff(): what changed between two results files, in words: versions, maps, statuses, sizes, answers. Never time."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from diag.errors import DiagError, SpecError
from diag.sweep.results.comparison import Change, compare_rows, match_rows, row_name
from diag.sweep.results.store import Row, Store
from diag.values.text import count_text, list_text
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

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "worse": self.worse, "text": str(self)}

    def __str__(self) -> str:
        if not (self.rows or self.versions or self.only_old or self.only_new):
            return f"Nothing changed: {self.same} rows are the same in {self.old} and {self.new}."
        worse = sum(row.worse for row in self.rows)
        counts = f"{worse} rows got worse, {len(self.rows) - worse} changed otherwise, {self.same} are the same"
        alone = f"{len(self.only_old)} are gone, {len(self.only_new)} are new"
        lines = [f"From {self.old} to {self.new}: {counts}, {alone}."]
        lines += [f"version of {name}: {before} → {after}" for name, (before, after) in self.versions.items()]
        for row in sorted(self.rows, key=lambda row: not row.worse):
            lines.append(f"{'worse' if row.worse else 'changed'}: {row.name}")
            lines += [f"  {change.kind}: {change.text}" for change in row.changes]
        lines += [f"only in {self.old}: {name}" for name in self.only_old]
        lines += [f"only in {self.new}: {name}" for name in self.only_new]
        return "\n".join(lines)


def diff(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> Diff:
    """Compares the newest row of each spec in both files.

    Raises SpecError for a file that is not there or no results file, DiagError for one that can't be read now.
    """
    before, versions_before = _newest(Path(old))
    after, versions_after = _newest(Path(new))
    several = len({row["model"] for row in (*before, *after)}) > 1
    partners, gone = match_rows(before, after)
    pairs = [(a, b) for a, b in zip(partners, after) if a is not None]
    rows = [RowDiff(row_name(b, several), (*compare_rows(a, b), *_peak_changes(a, b))) for a, b in pairs]
    changed = tuple(row for row in rows if row.changes)
    versions = {}
    for name in sorted({*versions_before, *versions_after}):
        a, b = (found.get(name, Counter({"absent": 1})) for found in (versions_before, versions_after))
        if a.keys() != b.keys():
            versions[name] = (_versions_text(a), _versions_text(b))
    only_old = tuple(row_name(row, several) for row in gone)
    only_new = tuple(row_name(row, several) for row, partner in zip(after, partners) if partner is None)
    return Diff(Path(old).name, Path(new).name, versions, changed, len(rows) - len(changed), only_old, only_new)


def _newest(path: Path) -> tuple[list[Row], dict[str, Counter[str]]]:
    """The newest row of each spec, and how many of them each version of each library made."""
    found: dict[str, tuple[str, Row]] = {}
    versions: dict[str, Counter[str]] = {}
    with _opened(path) as store:
        for key, row in store.rows().items():
            spec = row.get("spec") or {name: row[name] for name in ("model", "device_map", "quantization", "hardware")}
            found[json.dumps(spec, sort_keys=True)] = (key, row)
        for key, _ in found.values():
            for name, version in ((store.extra(key) or {}).get("versions") or {}).items():
                versions.setdefault(name, Counter())[str(version)] += 1
    return [row for _, row in found.values()], versions


def _opened(path: Path) -> Store:
    """Raises SpecError where the path itself is wrong; a file that is held or not readable now stays a DiagError."""
    try:
        return Store(path, must_exist=True)
    except DiagError as error:
        if isinstance(error.__cause__, sqlite3.OperationalError):
            raise
        raise SpecError(error.what, why=error.why, next_step=error.next_step) from error


def _versions_text(versions: Counter[str]) -> str:
    """`2.13.0`, or where there are several `2.13.0 (2 rows) and 2.12.0 (1 row)`."""
    if len(versions) == 1:
        return next(iter(versions))
    return list_text([f"{name} ({count_text(count, 'row')})" for name, count in versions.most_common()])


def _peak_changes(old: Row, new: Row) -> list[Change]:
    """Peaks that moved by more than a tenth, host and devices."""
    of_devices = (json.loads(row.get("peak_device_bytes") or "{}") for row in (old, new))
    before, after = ({"host": row.get("peak_host_bytes"), **peaks} for row, peaks in zip((old, new), of_devices))
    changes = []
    for name in sorted({*before} & {*after}):
        a, b = before[name], after[name]
        if None not in (a, b) and abs(b - a) > max(_SMALL, _SAME_PEAK * a):
            changes.append(Change("size", False, f"peak on {name}: {format_size(a)} → {format_size(b)}"))
    return changes
