"""What one step changed in a placement table. Pure."""

from __future__ import annotations

import pandas as pd

from diag.models.totals import by_device
from diag.values.text import count_text
from diag.values.units import format_size
from diag.views.markup import View, breakable, escape, table, tag

_WATCHED = ("device", "backing", "dtype", "quantization", "shape")
_SHOWN = 8


def changed(before: pd.DataFrame | None, after: pd.DataFrame | None) -> pd.DataFrame:
    """One row per tensor name and column that differs: `name`, `what`, `before`, `after`; new names have no before."""
    old, new = _cells(before), _cells(after)
    rows = []
    for name in dict.fromkeys([*new, *old]):
        was, now = old.get(name), new.get(name)
        if was is None or now is None:
            rows.append((name, "tensor", _text(was), _text(now)))
            continue
        rows += [(name, what, was[what], now[what]) for what in _WATCHED if was[what] != now[what]]
    return pd.DataFrame(rows, columns=["name", "what", "before", "after"])


def changes_view(before: pd.DataFrame | None, after: pd.DataFrame | None) -> View:
    """In words and a table: tensors that appeared, or what changed of how many, with the first of each kind."""
    if after is None:
        return _plain("There is no model yet, so there is no table.")
    if before is None:
        return _totals(after, f"The table appeared, {count_text(len(after), 'name')} long.")
    found = changed(before, after)
    if not len(found):
        return _plain("Nothing changed in the table.")
    groups = found.groupby(["what", "before", "after"], sort=False)["name"].agg(list).reset_index()
    rows = list(groups.itertuples(index=False))
    lines = [(escape(what), escape(was), escape(now), breakable(_names(names))) for what, was, now, names in rows]
    says = f"{found['name'].nunique():,} of {count_text(len(after), 'name')} changed."
    words = [f"  {what}: {was} -> {now}: {_names(names)}" for what, was, now, names in rows]
    return View(table(("what", "before", "after", "tensors"), lines, says), "\n".join([says, *words]))


def _totals(after: pd.DataFrame, says: str) -> View:
    totals = by_device(after)
    lines = [
        (escape(device), escape(backing), escape(f"{n:,}"), escape(format_size(nbytes)))
        for device, backing, n, _, nbytes in totals.itertuples(index=False)
    ]
    words = "\n".join([says, totals.to_string(index=False)])
    return View(table(("device", "backing", "tensors", "size"), lines, says), words)


def _plain(says: str) -> View:
    return View(tag("p", escape(says), class_="soft"), says)


def _cells(frame: pd.DataFrame | None) -> dict[str, dict[str, str]]:
    if frame is None:
        return {}
    columns = [frame[name].astype(str) for name in _WATCHED]
    return {name: dict(zip(_WATCHED, values)) for name, *values in zip(frame["name"], *columns)}


def _text(cells: dict[str, str] | None) -> str:
    return "not there" if cells is None else f"{cells['device']} ({cells['backing']})"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
