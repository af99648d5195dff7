"""`%load_ext diag`: `%diag` explains the notebook's last exception, `%diag on` each as it happens, `%%diag` watches.

Nothing here may break a notebook: an error of ours becomes a line of text, errors of the user's pass as they are, and
no exception, frame, model or tensor is kept.
"""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from diag.values.text import first_line
from diag.views.markup import View, escape, notice, tag
from diag.views.shown import findings_view

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


def load_ipython_extension(shell: Any) -> None:
    """Registers `%diag` and `%%diag`; a second load changes nothing."""
    if _loaded(shell) is None:
        _Diag(shell).attach()


def unload_ipython_extension(shell: Any) -> None:
    loaded = _loaded(shell)
    if loaded is not None:
        loaded.remove()


class _Diag:
    """The magic and the hook of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell, self._always, self._once = shell, False, False

    def attach(self) -> None:
        self._shell.register_magic_function(self.diag, "line_cell", "diag")
        self._shell.events.register("post_run_cell", self.after_cell)

    def remove(self) -> None:
        self._shell.events.unregister("post_run_cell", self.after_cell)
        for kind in ("line", "cell"):
            self._shell.magics_manager.magics[kind].pop("diag", None)

    def diag(self, line: str, cell: str | None = None) -> Any:
        """%diag [error] | %diag on | %diag off | %%diag [model]: explains an exception, or runs a cell under watch."""
        __tracebackhide__ = True
        if cell is not None:
            return self._watched(line.strip(), cell)
        word = line.strip().lower()
        if word in ("on", "off"):
            self._always = word == "on"
            _say("diag is on: a card follows every device-related traceback." if self._always else "diag is off.")
        elif word:
            self._explain_named(line.strip())
        else:
            self._explain_last()
        return None

    def after_cell(self, result: Any) -> None:
        """Shows the card under the traceback of a cell that just failed in our field; silent about anything else."""
        wanted, self._once = self._always or self._once, False
        error = getattr(result, "error_in_exec", None)
        if wanted and isinstance(error, Exception) and _safely(is_ours, error):
            _show(_safely(self._card, error))

    def _explain_last(self) -> None:
        error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        _say(_NOTHING) if error is None else _show(_safely(self._card, error))

    def _explain_named(self, expression: str) -> None:
        """An exception that was caught, by name: `%diag error`, `%diag outcome.error`."""
        try:
            value = self._shell.ev(expression)
        except Exception:
            value = None
        error = value if isinstance(value, BaseException) else getattr(value, "error", None)
        _show(_safely(self._card, error)) if isinstance(error, BaseException) else _say(_USAGE)

    def _card(self, error: BaseException) -> View:
        return card(error, self._shell.user_ns)

    def _watched(self, expression: str, cell: str) -> Any:
        from diag.proving.watching import watch

        __tracebackhide__ = True
        model = self._shell.ev(expression) if expression else _only_model(self._shell.user_ns)
        self._once = True
        with watch(model):
            value = _run(self._shell, cell)
        self._once = False
        _say(_WATCHED)
        return value


def card(error: BaseException, names: dict[str, Any] | None = None) -> View:
    """What diag says about an exception: its cause with the model that its frames hold, or that it is none of ours.

    `names` is the notebook's namespace; where it holds the model, the card says how to go on with it.
    """
    if not is_ours(error) and "torch" not in sys.modules:
        return _not_ours(error)
    from diag.diagnosis.engine import diagnose

    found = diagnose(error=error)
    ours = is_ours(error)
    if not found or (not ours and all(item.cause == "unknown" for item in found)):
        return _not_ours(error)
    what = f"{type(error).__name__}: {first_line(error)[:300]}"
    words = f"The cause of {what}" if ours else f"{what} is not about devices; the model near it shows this:"
    head = View(tag("p", tag("strong", escape(words)), role="status"), words)
    return head + findings_view(found) + _how_to_go_on(found.subject.model, names or {})


def is_ours(error: BaseException) -> bool:
    """Whether the exception's own text and traceback are about devices, placement or quantization."""
    from diag.diagnosis.explain import explain_text
    from diag.errors import MetaUseError, MetaWithoutDataError, UnsupportedError

    if isinstance(error, (MetaUseError, MetaWithoutDataError, UnsupportedError)):
        return True
    if isinstance(error, (KeyboardInterrupt, SystemExit, SyntaxError)):
        return False
    text = "".join(traceback.format_exception(error, limit=-30))
    return explain_text(text)[0].cause != "unknown"


def _not_ours(error: BaseException) -> View:
    words = f"{type(error).__name__} is not about devices or placement, as far as diag can see."
    more = "If you think it is: diag.diagnose(model) looks at the model itself."
    return View(notice("warn", words, [escape(more)]), f"{words}\n{more}")


def _how_to_go_on(model: Any, names: dict[str, Any]) -> View:
    """The two calls that apply the first fix, where the notebook has a name for the model."""
    own = [(key, value) for key, value in names.items() if not key.startswith("_")] if model is not None else []
    held = [key for key, value in own if value is model]
    held += [f"{key}.model" for key, value in own if _attribute(value, "model") is model]
    if not held:
        return View("", "")
    code = f"import diag\nfixed = diag.fix(diag.diagnose({held[0]}))\nfixed.proof"
    words = "To apply the first fix and see its proof:"
    return View(tag("p", escape(words)) + tag("pre", tag("code", escape(code)), tabindex="0"), f"{words}\n{code}")


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except Exception:  # a property of somebody else's class
        return None


def _run(shell: Any, cell: str) -> Any:
    """Runs a cell's code in the notebook's namespace; its last expression is the value, as in any cell."""
    __tracebackhide__ = True
    source = shell.transform_cell(cell)
    if shell.should_run_async(cell, transformed_cell=source):
        from IPython.core.error import UsageError

        raise UsageError(_AWAITS)
    tree = shell.compile.ast_parse(source)
    name = shell.compile.cache(source, max(1, shell.execution_count - 1), raw_code=cell)  # it counts on first
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(shell.compile(tree, name, "exec"), shell.user_ns)
    if last is None:
        return None
    value = eval(shell.compile(ast.Expression(last.value), name, "eval"), shell.user_ns)
    return None if source.rstrip().endswith(";") else value


def _only_model(names: dict[str, Any]) -> Any:
    """The one model of the notebook, to name its modules; None where there are none or several."""
    found = {id(model): model for model in _models(names)}
    parts = {id(part) for model in found.values() for part in model.modules() if part is not model}
    whole = [model for key, model in found.items() if key not in parts]
    return whole[0] if len(whole) == 1 else None


def _models(names: dict[str, Any]) -> Iterator[Any]:
    from torch import nn

    from diag.values.outcome import LoadOutcome

    for name, value in list(names.items()):
        if name.startswith("_"):
            continue
        model = value.model if isinstance(value, LoadOutcome) else value
        if isinstance(model, nn.Module):
            yield model


def _safely(act: Any, error: BaseException) -> Any:
    """An error of ours while explaining is a sentence, never a second traceback in the user's notebook."""
    try:
        return act(error)
    except Exception as ours:
        words = f"diag could not look at this {type(error).__name__}: {type(ours).__name__}: {first_line(ours)[:300]}"
        return View(notice("warn", words, []), words)


def _show(view: Any) -> None:
    if isinstance(view, View):
        from IPython.display import display

        display(view)


def _say(words: str) -> None:
    _show(View(tag("p", escape(words), role="status"), words))


def _loaded(shell: Any) -> Any:
    registered = shell.magics_manager.magics["line"].get("diag")
    return getattr(registered, "__self__", None) if registered is not None else None
