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
    """The end of a notebook: each sentence, and whether it holds here; shows all before it raises.

    Raises NotAsTaughtError that names those that do not hold.

    >>> check({"two and two are four": 2 + 2 == 4})
    All of it holds here:
    ✓ two and two are four
    """
    wrong = [says for says, holds in learned.items() if not holds]
    if not wrong:
        return _checked("good", "All of it holds here:", learned)
    from IPython.display import display

    of_all = f"{len(wrong)} of {count_text(len(learned), 'statement')}"
    display(_checked("bad", f"{of_all} did not hold here:", learned))
    raise NotAsTaughtError(
        f"{of_all} did not hold: {'; '.join(wrong)}.",
        why="a parameter was changed or a cell was skipped, so the cells above gave something else.",
        next_step="for a model of your own, read the cell that each statement is about. With the notebook's defaults, "
        "restart the kernel and run all cells: then every statement holds.",
    )


def _checked(tone: str, head: str, learned: Mapping[str, object]) -> View:
    marks = [("✓" if holds else "✗", "good" if holds else "bad", says) for says, holds in learned.items()]
    text = "\n".join([head, *(f"{mark} {says}" for mark, _, says in marks)])
    return View(render("notebook/checked", tone=tone, head=head, marks=marks), text)


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
    lines = []
    for model, nbytes in models:
        own = names.get(id(model), [])
        unnamed = "without a name of its own, perhaps in an output of this notebook"
        lines.append(f"{type(model).__name__}, {format_size(nbytes)}, {f'as {list_text(own)}' if own else unnamed}")
    total = format_size(sum(nbytes for _, nbytes in models))
    title = f"This kernel already holds {count_text(len(models), 'model')} of earlier cells, {total}"
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
    outer = [(one, _nbytes(one)) for one in modules if id(one) not in inner]
    return [(model, nbytes) for model, nbytes in outer if nbytes]


def _nbytes(model: nn.Module) -> int:
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers()) if not t.is_meta}
    return sum(tensor.nbytes for tensor in tensors.values())


def _names_of_models() -> dict[int, list[str]]:
    """The notebook's variables by the identity of the model they are or carry."""
    from IPython import get_ipython

    found: dict[int, list[str]] = {}
    for name, value in list(getattr(get_ipython(), "user_ns", {}).items()):
        if not name.startswith("_"):
            for one in (value, getattr(value, "model", None), getattr(getattr(value, "stage", None), "model", None)):
                found.setdefault(id(one), []).append(name)
    return found
