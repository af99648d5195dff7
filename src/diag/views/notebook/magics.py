"""`%load_ext diag`: `%diag` explains the notebook's last exception, `%diag on` each as it happens, `%%diag` watches.

Nothing here may break a notebook: an error of ours becomes a line of text, errors of the user's pass as they are, and
no exception, frame, model or tensor is kept.
"""

from __future__ import annotations

import ast
import contextlib
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from diag.errors import MetaUseError, MetaWithoutDataError, UnsupportedError
from diag.values.text import error_line
from diag.views.markup import View, render
from diag.views.shown import findings_view

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from torch import nn

T = TypeVar("T")
_LONGEST = 300  # characters of an error's first line
_USAGE = (
    "%diag explains the last exception of this notebook, %diag NAME one that was caught; %diag on shows the card under "
    "every device-related traceback as it happens, %diag off ends that; %%diag runs a cell and stops it at the first "
    "operation that mixes meta and real data (%%diag model names the modules of that model)."
)
_NOTHING = "No cell of this notebook has failed yet, so there is nothing to explain."


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Registers `%diag` and `%%diag`; a second load changes nothing."""
    if _loaded(shell) is None:
        made = _Diag(shell)
        shell.register_magic_function(made.diag, "line_cell", "diag")  # type: ignore[arg-type]
        shell.events.register("post_run_cell", made.after_cell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    if (loaded := _loaded(shell)) is not None:
        shell.events.unregister("post_run_cell", loaded.after_cell)
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop("diag", None)


def _loaded(shell: InteractiveShell) -> _Diag | None:
    return getattr(shell.magics_manager.magics["line"].get("diag"), "__self__", None)


class _Diag:
    """The magic and the hook of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell, self._always, self._once = shell, False, False

    def diag(self, line: str, cell: str | None = None) -> object:
        """%diag [error] | %diag on | %diag off | %%diag [model]: explains an exception, or runs a cell under watch."""
        __tracebackhide__ = True
        asked = line.strip()
        if cell is not None:
            return self._watched(asked, cell)
        if asked.lower() in ("on", "off"):
            self._always = asked.lower() == "on"
            _say("diag is on: a card follows every device-related traceback." if self._always else "diag is off.")
            return None
        error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        if asked:
            error = self._error_named(asked)
        _say(_USAGE if asked else _NOTHING) if error is None else self._explain(error)
        return None

    def after_cell(self, result: object) -> None:
        """Shows the card under the traceback of a cell that just failed in our field; silent about anything else."""
        wanted, self._once = self._always or self._once, False
        error = getattr(result, "error_in_exec", None)
        if wanted and isinstance(error, Exception) and _safely(is_ours, error):
            self._explain(error)

    def _explain(self, error: BaseException) -> None:
        from IPython.display import display

        display(_safely(lambda said: card(said, self._shell.user_ns), error))

    def _error_named(self, expression: str) -> BaseException | None:
        """An exception that was caught, by name: `%diag error`, `%diag outcome.error`."""
        try:
            value = self._shell.ev(expression)
        except Exception:
            return None
        error = value if isinstance(value, BaseException) else getattr(value, "error", None)
        return error if isinstance(error, BaseException) else None

    def _watched(self, expression: str, cell: str) -> object:
        from diag.proving.watching import watch

        __tracebackhide__ = True
        model = self._shell.ev(expression) if expression else _only_model(self._shell.user_ns)
        self._once = True
        with watch(model):
            value = _run(self._shell, cell)
        self._once = False
        _say("Watched: no operation of this cell mixed meta and real data.")
        return value


def card(error: BaseException, names: Mapping[str, object]) -> View:
    """What diag says about an exception: its cause with the model that its frames hold, or that it is none of ours.

    `names` is the notebook's namespace; where it holds the model, the card says how to go on with it.
    """
    ours, found = is_ours(error), None
    if ours or "torch" in sys.modules:
        from diag.diagnosis.engine import diagnose

        found = diagnose(error=error)
    if not found or (not ours and all(item.is_unknown for item in found)):
        words = f"{type(error).__name__} is not about devices or placement, as far as diag can see."
        more = "If you think it is: diag.diagnose(model) looks at the model itself."
        return View(render("notice", tone="warn", title=words, paragraphs=[more]), f"{words}\n{more}")
    what = error_line(error)[:_LONGEST]
    words = f"The cause of {what}" if ours else f"{what} is not about devices; the model near it shows this:"
    shown = View(render("notebook/card_head", words=words), words) + findings_view(found)
    name = _name_of(found.subject.model, names)
    if not name:
        return shown
    code = f"import diag\nfixed = diag.fix(diag.diagnose({name}))\nfixed.proof"
    how = "To apply the first fix and see its proof:"
    return shown + View(render("notebook/how_to_go_on", words=how, code=code), f"{how}\n{code}")


def is_ours(error: BaseException) -> bool:
    """Whether the exception's own text and traceback are about devices, placement or quantization."""
    from diag.diagnosis.explain import explain_text

    if isinstance(error, (MetaUseError, MetaWithoutDataError, UnsupportedError)):
        return True
    if isinstance(error, (KeyboardInterrupt, SystemExit, SyntaxError)):
        return False
    return not explain_text("".join(traceback.format_exception(error, limit=-30)))[0].is_unknown


def _name_of(model: object, names: Mapping[str, object]) -> str:
    """The name that the notebook has for a model, or for what carries it as `.model`; empty where it has none."""
    own = {} if model is None else {key: value for key, value in names.items() if not key.startswith("_")}
    held = [key for key, value in own.items() if value is model]
    for key, value in own.items():
        with contextlib.suppress(Exception):  # `model` may be a property of somebody else's class
            held += [f"{key}.model"] if getattr(value, "model", None) is model else []
    return held[0] if held else ""


def _run(shell: InteractiveShell, cell: str) -> object:
    """Runs a cell's code in the notebook's namespace; its last expression is the value, as in any cell."""
    __tracebackhide__ = True
    source = shell.transform_cell(cell)
    if shell.should_run_async(cell, transformed_cell=source):
        from IPython.core.error import UsageError

        instead = "put `with diag.watch(model):` around the awaited call instead."
        raise UsageError(f"%%diag can't run a cell that awaits at its top: {instead}")
    tree = cast(ast.Module, shell.compile.ast_parse(source))
    name = shell.compile.cache(source, max(1, shell.execution_count - 1), raw_code=cell)  # it counts on first
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(shell.compile(tree, name, "exec"), shell.user_ns)  # type: ignore[arg-type]
    if not isinstance(last, ast.Expr):
        return None
    value = eval(shell.compile(ast.Expression(last.value), name, "eval"), shell.user_ns)  # type: ignore[arg-type]
    return None if source.rstrip().endswith(";") else value


def _only_model(names: Mapping[str, object]) -> nn.Module | None:
    """The one model of the notebook, to name its modules; None where there are none or several."""
    from torch import nn

    from diag.values.outcome import LoadOutcome

    own = [value for name, value in list(names.items()) if not name.startswith("_")]
    carried = [value.model if isinstance(value, LoadOutcome) else value for value in own]
    found = {id(model): model for model in carried if isinstance(model, nn.Module)}
    parts = {id(part) for model in found.values() for part in model.modules() if part is not model}
    outermost = [model for key, model in found.items() if key not in parts]
    return outermost[0] if len(outermost) == 1 else None


def _safely(act: Callable[[BaseException], T], error: BaseException) -> T | View:
    """An error of ours while explaining is a sentence, never a second traceback in the user's notebook."""
    try:
        return act(error)
    except Exception as ours:
        words = f"diag could not look at this {type(error).__name__}: {error_line(ours)[:_LONGEST]}"
        return View(render("notice", tone="warn", title=words, paragraphs=()), words)


def _say(words: str) -> None:
    from IPython.display import display

    display(View(render("status", words=words), words))
