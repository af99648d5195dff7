"""What the walkthrough needs beside diag itself: a check of what was learned, and what the kernel still holds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from diag.errors import DiagError
from diag.values.text import count_text, list_text, visible
from diag.values.units import format_size
from diag.views.markup import View, breakable, escape, notice, table, tag
from diag.views.wording import cell_text


class NotAsTaughtError(DiagError, AssertionError):
    """A check at the end of a notebook failed: what it says is not so here."""


def check(learned: Mapping[str, object]) -> View:
    """The end of a notebook: each cell_text, and whether it holds here; shows all before it raises.

    Raises NotAsTaughtError that names those that do not hold.

    >>> check({"two and two are four": 2 + 2 == 4})
    All of it holds here:
    ✓ two and two are four
    """
    wrong = [says for says, holds in learned.items() if not holds]
    if not wrong:
        return _checked("good", "All of it holds here:", learned)
    _display(_checked("bad", f"{len(wrong)} of {count_text(len(learned), 'statement')} did not hold here:", learned))
    raise NotAsTaughtError(
        f"{len(wrong)} of {count_text(len(learned), 'statement')} did not hold: {'; '.join(wrong)}.",
        why="the cells above gave something else: a parameter was changed, or a cell was skipped.",
        next_step="for a model of your own, read the cell that each of them is about; with the notebook's defaults, "
        "restart the kernel and run all cells: there every statement holds.",
    )


def _checked(tone: str, head: str, learned: Mapping[str, object]) -> View:
    marks = [("✓", "good") if holds else ("✗", "bad") for holds in learned.values()]
    items = "".join(
        tag("li", tag("span", f"{mark} ", class_=f"status {kind}") + escape(says))
        for (mark, kind), says in zip(marks, learned)
    )
    html = notice(tone, head, [])[: -len("</div>")] + tag("ul", items, class_="checked") + "</div>"
    return View(html, "\n".join([head, *(f"{mark} {says}" for (mark, _), says in zip(marks, learned))]))


def _display(view: View) -> None:
    from IPython.display import display

    display(view)


def in_full(frame: pd.DataFrame) -> View:
    """A DataFrame with every text in full: it wraps, and folds into cards on a narrow screen."""
    lines = [tuple(breakable(cell_text(value)) for value in row) for row in frame.itertuples(index=False)]
    says = count_text(len(frame), "row")
    text = frame.to_string(index=False, max_colwidth=100)
    return View(table([name.replace("_", " ") for name in map(str, frame.columns)], lines, says), visible(text))


def held() -> View:
    """Which models earlier cells left in this kernel, how much memory they hold, and how to let go of them.

    Looks at every object of this process once (a moment); collects garbage first.
    """
    found = list(_models())
    if not found:
        return _plain("This kernel holds no model: nothing of an earlier load takes memory.")
    lines = [_describe(model, names) for model, names in found]
    total = format_size(sum(_nbytes(model) for model, _ in found))
    title = f"This kernel already holds {count_text(len(found), 'model')} of earlier cells, {total}"
    free = "A load now has that much less room. To free it: %xdel and the name, or restart the kernel."
    return View(notice("warn", title, [*map(breakable, lines), escape(free)]), "\n".join([title, *lines, free]))


def _models() -> Iterator[tuple[Any, list[str]]]:
    """Outermost modules that hold data, with the notebook's names for them."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    gc.collect()
    module = torch.nn.Module
    every = [one for one in gc.get_objects() if issubclass(type(one), module)]
    inner = {id(part) for one in every for part in one._modules.values() if part is not None}
    names = _names()
    for one in every:
        if id(one) not in inner and _nbytes(one):
            yield one, names.get(id(one), [])


def _nbytes(model: Any) -> int:
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers()) if not t.is_meta}
    return sum(tensor.nbytes for tensor in tensors.values())


def _names() -> dict[int, list[str]]:
    """The notebook's variables by the identity of the model they are or carry."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    found: dict[int, list[str]] = {}
    for name, value in list(getattr(shell, "user_ns", {}).items()):
        if not name.startswith("_"):
            for one in (value, getattr(value, "model", None), getattr(getattr(value, "stage", None), "model", None)):
                found.setdefault(id(one), []).append(name)
    return found


def _describe(model: Any, names: list[str]) -> str:
    where = f"as {list_text(names)}" if names else "without a name of its own, perhaps in an output of this notebook"
    return f"{type(model).__name__}, {format_size(_nbytes(model))}, {where}"


def _plain(words: str) -> View:
    return View(tag("p", escape(words), class_="soft"), words)
