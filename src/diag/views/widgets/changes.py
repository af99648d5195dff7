"""What one step changed in a placement table. Pure."""

import pandas as pd

from diag.models.table import by_device
from diag.values.text import count_text
from diag.values.units import format_size
from diag.views.markup import View, render

_WATCHED = ["device", "backing", "dtype", "quantization", "shape"]
_SHOWN = 8  # names of a kind


def changed(before: pd.DataFrame | None, after: pd.DataFrame | None) -> pd.DataFrame:
    """One row per tensor name and column that differs: `name`, `what`, `before`, `after`; new names have no before."""
    old, new = _cells(before), _cells(after)
    rows = []
    for name in dict.fromkeys([*new, *old]):
        was, now = old.get(name), new.get(name)
        if was is None or now is None:
            rows.append((name, "tensor", _place(was), _place(now)))
        else:
            rows += [(name, what, was[what], now[what]) for what in _WATCHED if was[what] != now[what]]
    return pd.DataFrame(rows, columns=["name", "what", "before", "after"])


def changes_view(before: pd.DataFrame | None, after: pd.DataFrame | None) -> View:
    """In words and a table: tensors that appeared, or what changed of how many, with the first of each kind."""
    if after is None:
        return _said("There is no model yet, so there is no table.")
    if before is None:
        return _totals(after)
    found = changed(before, after)
    if not len(found):
        return _said("Nothing changed in the table.")
    groups = found.groupby(["what", "before", "after"], sort=False)["name"].agg(_names).reset_index()
    rows = list(groups.itertuples(index=False))
    says = f"{found['name'].nunique():,} of {count_text(len(after), 'name')} changed."
    words = [f"  {what}: {was} -> {now}: {names}" for what, was, now, names in rows]
    columns = ("what", "before", "after", "tensors")
    return View(render("table", columns=columns, rows=rows, caption=says), "\n".join([says, *words]))


def _totals(after: pd.DataFrame) -> View:
    says, totals = f"The table appeared, {count_text(len(after), 'name')} long.", by_device(after)
    rows = [
        (device, backing, f"{n:,}", format_size(nbytes))
        for device, backing, n, _, nbytes in totals.itertuples(index=False)
    ]
    columns = ("device", "backing", "tensors", "size")
    html = render("table", columns=columns, rows=rows, caption=says)
    return View(html, f"{says}\n{totals.to_string(index=False)}")


def _said(words: str) -> View:
    return View(render("said", words=words, look="soft"), words)


def _cells(table: pd.DataFrame | None) -> dict[str, dict[str, str]]:
    """Each name's watched columns as text."""
    if table is None:
        return {}
    return dict(zip(table["name"], table[_WATCHED].astype(str).to_dict("records")))


def _place(cells: dict[str, str] | None) -> str:
    return "not there" if cells is None else f"{cells['device']} ({cells['backing']})"


def _names(names: pd.Series) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
