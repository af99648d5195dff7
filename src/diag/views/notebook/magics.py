"""`%load_ext diag`: `%diag` explains the notebook's last exception, `%diag on` each as it happens, `%%diag` watches.

Nothing here may break a notebook: an error of ours becomes a line of text, errors of the user's pass as they are, and
no exception, frame, model or tensor is kept.
"""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
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
_AWAITS = (
    "%%diag can't run a cell that awaits at its top: put `with diag.watch(model):` around the awaited call instead."
)
_WATCHED = "Watched: no operation of this cell mixed meta and real data."


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Registers `%diag` and `%%diag`; a second load changes nothing."""
    if _loaded(shell) is None:
        _Diag(shell).attach()


def unload_ipython_extension(shell: InteractiveShell) -> None:
    loaded = _loaded(shell)
    if loaded is not None:
        loaded.remove()


def _loaded(shell: InteractiveShell) -> _Diag | None:
    return getattr(shell.magics_manager.magics["line"].get("diag"), "__self__", None)


class _Diag:
    """The magic and the hook of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell, self._always, self._once = shell, False, False

    def attach(self) -> None:
        self._shell.register_magic_function(self.diag, "line_cell", "diag")  # type: ignore[arg-type]
        self._shell.events.register("post_run_cell", self.after_cell)

    def remove(self) -> None:
        self._shell.events.unregister("post_run_cell", self.after_cell)
        for kind in ("line", "cell"):
            self._shell.magics_manager.magics[kind].pop("diag", None)

    def diag(self, line: str, cell: str | None = None) -> object:
        """%diag [error] | %diag on | %diag off | %%diag [model]: explains an exception, or runs a cell under watch."""
        __tracebackhide__ = True
        asked = line.strip()
        if cell is not None:
            return self._watched(asked, cell)
        if asked.lower() in ("on", "off"):
            self._always = asked.lower() == "on"
            _say("diag is on: a card follows every device-related traceback." if self._always else "diag is off.")
        elif asked:
            error = self._error_named(asked)
            _say(_USAGE) if error is None else self._explain(error)
        else:
            error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
            _say(_NOTHING) if error is None else self._explain(error)
        return None

    def after_cell(self, result: object) -> None:
        """Shows the card under the traceback of a cell that just failed in our field; silent about anything else."""
        wanted, self._once = self._always or self._once, False
        error = getattr(result, "error_in_exec", None)
        if wanted and isinstance(error, Exception) and _safely(is_ours, error):
            self._explain(error)

    def _explain(self, error: BaseException) -> None:
        _show(_safely(lambda said: card(said, self._shell.user_ns), error))

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
        _say(_WATCHED)
        return value


def card(error: BaseException, names: Mapping[str, object] | None = None) -> View:
    """What diag says about an exception: its cause with the model that its frames hold, or that it is none of ours.

    `names` is the notebook's namespace; where it holds the model, the card says how to go on with it.
    """
    ours = is_ours(error)
    if not ours and "torch" not in sys.modules:
        return _not_ours(error)
    from diag.diagnosis.engine import diagnose

    found = diagnose(error=error)
    if not found or (not ours and all(item.is_unknown for item in found)):
        return _not_ours(error)
    what = error_line(error)[:_LONGEST]
    words = f"The cause of {what}" if ours else f"{what} is not about devices; the model near it shows this:"
    shown = View(render("notebook/card_head", words=words), words) + findings_view(found)
    name = _name_of(found.subject.model, names or {})
    return shown + _how_to_go_on(name) if name else shown


def is_ours(error: BaseException) -> bool:
    """Whether the exception's own text and traceback are about devices, placement or quantization."""
    from diag.diagnosis.explain import explain_text

    if isinstance(error, (MetaUseError, MetaWithoutDataError, UnsupportedError)):
        return True
    if isinstance(error, (KeyboardInterrupt, SystemExit, SyntaxError)):
        return False
    return not explain_text("".join(traceback.format_exception(error, limit=-30)))[0].is_unknown


def _not_ours(error: BaseException) -> View:
    words = f"{type(error).__name__} is not about devices or placement, as far as diag can see."
    more = "If you think it is: diag.diagnose(model) looks at the model itself."
    return View(render("notice", tone="warn", title=words, paragraphs=[more]), f"{words}\n{more}")


def _how_to_go_on(model: str) -> View:
    """The two calls that apply the first fix to the model of this name."""
    words = "To apply the first fix and see its proof:"
    code = f"import diag\nfixed = diag.fix(diag.diagnose({model}))\nfixed.proof"
    return View(render("notebook/how_to_go_on", words=words, code=code), f"{words}\n{code}")


def _name_of(model: object, names: Mapping[str, object]) -> str:
    """The name that the notebook has for a model, or for what carries it as `.model`; empty where it has none."""
    own = [(key, value) for key, value in names.items() if not key.startswith("_")] if model is not None else []
    held = [key for key, value in own if value is model]
    held += [f"{key}.model" for key, value in own if _attribute(value, "model") is model]
    return held[0] if held else ""


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name, None)
    except Exception:  # a property of somebody else's class
        return None


def _run(shell: InteractiveShell, cell: str) -> object:
    """Runs a cell's code in the notebook's namespace; its last expression is the value, as in any cell."""
    __tracebackhide__ = True
    source = shell.transform_cell(cell)
    if shell.should_run_async(cell, transformed_cell=source):
        from IPython.core.error import UsageError

        raise UsageError(_AWAITS)
    tree = cast(ast.Module, shell.compile.ast_parse(source))
    name = shell.compile.cache(source, max(1, shell.execution_count - 1), raw_code=cell)  # it counts on first
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(shell.compile(tree, name, "exec"), shell.user_ns)  # type: ignore[arg-type]
    if not isinstance(last, ast.Expr):
        return None
    expression = ast.Expression(last.value)
    value = eval(shell.compile(expression, name, "eval"), shell.user_ns)  # type: ignore[arg-type]
    return None if source.rstrip().endswith(";") else value


def _only_model(names: Mapping[str, object]) -> nn.Module | None:
    """The one model of the notebook, to name its modules; None where there are none or several."""
    found = {id(model): model for model in _models(names)}
    parts = {id(part) for model in found.values() for part in model.modules() if part is not model}
    outermost = [model for key, model in found.items() if key not in parts]
    return outermost[0] if len(outermost) == 1 else None


def _models(names: Mapping[str, object]) -> Iterator[nn.Module]:
    from torch import nn

    from diag.values.outcome import LoadOutcome

    for name, value in list(names.items()):
        model = value.model if isinstance(value, LoadOutcome) else value
        if isinstance(model, nn.Module) and not name.startswith("_"):
            yield model


def _safely(act: Callable[[BaseException], T], error: BaseException) -> T | View:
    """An error of ours while explaining is a sentence, never a second traceback in the user's notebook."""
    try:
        return act(error)
    except Exception as ours:
        words = f"diag could not look at this {type(error).__name__}: {error_line(ours)[:_LONGEST]}"
        return View(render("notice", tone="warn", title=words, paragraphs=()), words)


def _show(view: View) -> None:
    from IPython.display import display

    display(view)


def _say(words: str) -> None:
    _show(View(render("status", words=words), words))
