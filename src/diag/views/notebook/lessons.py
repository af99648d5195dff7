"""What the walkthrough needs beside diag itself: a check of what was learned, and what the kernel still holds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from diag.errors import DiagError
from diag.values.text import count_text, list_text, visible
from diag.values.units import format_size
from diag.views.markup import View, render
from diag.views.wording import cell_text

if TYPE_CHECKING:
    from torch import nn

_FREE = "A load now has that much less room. To free it: %xdel and the name, or restart the kernel."


class NotAsTaughtError(DiagError, AssertionError):
    """A check at the end of a notebook failed: what it says is not so here."""


def check(learned: Mapping[str, object]) -> View:
    """The end of a notebook: each sentence, and whether it holds here.

    Raises NotAsTaughtError, which names those that do not hold, after it has shown all.

    >>> check({"two and two are four": 2 + 2 == 4})
    All of it holds here:
    ✓ two and two are four
    """
    from IPython.display import display

    wrong = [says for says, holds in learned.items() if not holds]
    of_all = f"{len(wrong)} of {count_text(len(learned), 'statement')}"
    head = f"{of_all} did not hold here:" if wrong else "All of it holds here:"
    marks = [("✓" if holds else "✗", "good" if holds else "bad", says) for says, holds in learned.items()]
    html = render("notebook/checked", tone="bad" if wrong else "good", head=head, marks=marks)
    checked = View(html, "\n".join([head, *(f"{mark} {says}" for mark, _, says in marks)]))
    if not wrong:
        return checked
    display(checked)
    raise NotAsTaughtError(
        f"{of_all} did not hold: {'; '.join(wrong)}.",
        why="a parameter was changed or a cell was skipped, so the cells above gave something else.",
        next_step="for a model of your own, read the cell that each statement is about. With the notebook's defaults, "
        "restart the kernel and run all cells: then every statement holds.",
    )


def in_full(frame: pd.DataFrame) -> View:
    """A DataFrame with every text in full: it wraps, and folds into cards on a narrow screen."""
    columns = [str(name).replace("_", " ") for name in frame.columns]
    rows = [tuple(map(cell_text, values)) for values in frame.itertuples(index=False)]
    html = render("table", columns=columns, rows=rows, caption=count_text(len(frame), "row"))
    return View(html, visible(frame.to_string(index=False, max_colwidth=100)))


def held() -> View:
    """Which models earlier cells left in this kernel, how much memory they hold, and how to let go of them.

    Looks at every object of this process once (a moment); collects garbage first.
    """
    names, models = _names_of_models(), _models_with_data()
    if not models:
        words = "This kernel holds no model: nothing of an earlier load takes memory."
        return View(render("said", words=words, look="soft"), words)
    lines, unnamed = [], "without a name of its own, perhaps in an output of this notebook"
    for model, nbytes in models:
        own = f"as {list_text(names[id(model)])}" if id(model) in names else unnamed
        lines.append(f"{type(model).__name__}, {format_size(nbytes)}, {own}")
    total, count = format_size(sum(nbytes for _, nbytes in models)), count_text(len(models), "model")
    title = f"This kernel already holds {count} of earlier cells, {total}"
    html = render("notice", tone="warn", title=title, paragraphs=[*lines, _FREE])
    return View(html, "\n".join([title, *lines, _FREE]))


def _models_with_data() -> list[tuple[nn.Module, int]]:
    """The outermost modules of this process that hold data, with its bytes."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    gc.collect()
    modules = [one for one in gc.get_objects() if issubclass(type(one), torch.nn.Module)]
    inner = {id(part) for one in modules for part in one._modules.values() if part is not None}
    outer = [one for one in modules if id(one) not in inner]
    sizes = [sum(t.nbytes for t in (*one.parameters(), *one.buffers()) if not t.is_meta) for one in outer]
    return [(model, nbytes) for model, nbytes in zip(outer, sizes) if nbytes]


def _names_of_models() -> dict[int, list[str]]:
    """The notebook's variables by the identity of the model they are or carry."""
    from IPython import get_ipython

    found: dict[int, list[str]] = {}
    for name, value in list(getattr(get_ipython(), "user_ns", {}).items()):
        if not name.startswith("_"):
            for one in (value, getattr(value, "model", None), getattr(getattr(value, "stage", None), "model", None)):
                found.setdefault(id(one), []).append(name)
    return found
