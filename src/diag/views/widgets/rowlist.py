"""The rows of a matrix as buttons: they arrive one by one, keep the keyboard's focus, and one is opened below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from diag.errors import DiagError
from diag.values.spec import LoadSpec
from diag.values.units import format_seconds, is_missing
from diag.views.markup import render
from diag.views.report.verdict import peaks_text
from diag.views.rows import simulated_text
from diag.views.shown import findings_view
from diag.views.widgets.choosing import Choice
from diag.views.widgets.explorer import PlacementExplorer
from diag.views.widgets.live import button, close, html, row, scoped
from diag.views.wording import cell_text, map_text, status_word

if TYPE_CHECKING:
    from ipywidgets import HTML, Box, Button, Widget

Row = Mapping[str, Any]  # one row of a matrix: MATRIX_COLUMNS by name


class RowList:
    """Rows in a box that scrolls, and the details of the one that was pressed right below it.

    A line is made once and used again for other rows, so that a button which has the focus is never replaced.
    The widgets of the details are closed when another row is opened.
    """

    def __init__(self) -> None:
        from ipywidgets import Layout, VBox

        self._rows: Mapping[LoadSpec, Row] = {}
        self._results, self._with_hardware = "", False
        self._lines: list[_Line] = []
        self._open: LoadSpec | None = None
        self.lines = VBox(layout=Layout(max_height="19rem", overflow="auto", flex="0 0 auto"))
        self.details = VBox()
        self.widget = VBox([self.lines, self.details])

    def show(self, rows: Mapping[LoadSpec, Row], results: str, with_hardware: bool) -> None:
        """The rows of a results file that are known now. Names say the hardware too where rows differ in it."""
        self._rows, self._results, self._with_hardware = rows, results, with_hardware
        self._draw()

    def shut(self) -> None:
        """No row is open any more."""
        self._open, old = None, self.details.children
        self.details.children = ()
        close(*old)
        self._draw()

    def _draw(self) -> None:
        while len(self._lines) < len(self._rows):
            self._lines.append(_Line(self._press, self._lines[0] if self._lines else None))
        for line, (spec, found) in zip(self._lines, self._rows.items()):
            line.show(spec, found, self._with_hardware, spec == self._open)
        if len(self.lines.children) != len(self._rows):
            self.lines.children = tuple(line.widget for line in self._lines[: len(self._rows)])

    def _press(self, spec: LoadSpec) -> None:
        was_open = spec == self._open
        self.shut()
        if not was_open:
            self._open = spec
            self._draw()
            self.details.children = details_of(spec, self._rows[spec], self._results)


class _Line:
    """A button with a row's name and, beside it, its verdict. All lines share the layouts and styles of the first."""

    spec: LoadSpec

    def __init__(self, press: Callable[[LoadSpec], None], first: _Line | None) -> None:
        self._found: Row | None = None
        looks = [{}, {}, {}] if first is None else map(_looks, (first.button, first._verdict, first.widget))
        of_button, of_verdict, of_line = looks
        self.button: Button = button("", lambda: press(self.spec), **of_button)  # type: ignore[arg-type]
        self._verdict: HTML = html(**of_verdict)  # type: ignore[arg-type]
        self.widget: Box = row(self.button, self._verdict, **of_line)
        if first is None:
            self.button.layout.flex, self.button.layout.min_width = "0 0 auto", "11rem"
            self._verdict.layout.flex, self._verdict.layout.width = "1 1 14rem", "auto"
            self.widget.layout.flex = "0 0 auto"

    def show(self, spec: LoadSpec, found: Row, with_hardware: bool, is_open: bool) -> None:
        name = f"{map_text(spec.device_map_text)} · {map_text(spec.quantization, 40)}"
        name += f" · {spec.hardware_text}" if with_hardware else ""
        self.button.description = f"▾ {name}" if is_open else name
        self.button.tooltip = f"{name} is shown below; press again to close it" if is_open else f"Show {name} below"
        (self.button.add_class if is_open else self.button.remove_class)("diag-open")
        self.spec = spec
        if found is not self._found:
            self._found, self._verdict.value = found, _row_line(found)


def _looks(widget: Widget) -> dict[str, object]:
    """Layout and style of a widget, for another one that looks the same; a front end then holds them once."""
    return {name: getattr(widget, name) for name in ("layout", "style") if hasattr(widget, name)}


def _row_line(found: Row) -> str:
    """A row in one line: verdict, seconds, peak, how much is offloaded or missing."""
    counts = ((found["n_offloaded"], "offloaded"), (found["n_missing"], "missing"))
    several = [f"{int(count)} {word}" for count, word in counts if not is_missing(count) and count]
    facts = [format_seconds(found["load_seconds"]), peaks_text(pd.Series(found)), *several]
    words, simulated = " · ".join(filter(None, facts)), simulated_text(found["hardware"])
    return scoped("widgets/matrix_row", word=status_word(found["status"]), words=words, simulated=simulated)


def details_of(spec: LoadSpec, found: Row, results: str) -> tuple[Widget, ...]:
    """One row looked at closely: what happened and why, the cause of an error, and its placement to explore."""
    from diag.diagnosis.explain import explain_text
    from diag.sweep.run import placement_of

    word, cause = status_word(found["status"]), Markup("")
    error = cell_text(found["error_text"]) and f"{cell_text(found['error_type'])}: {cell_text(found['error_text'])}"
    if error and found["status"] != "unsupported":
        known, unknown = explain_text(error), "No cause of the catalogue fits this text."
        cause = findings_view(known).html
        if known[0].is_unknown:
            cause = render("notice", tone="warn", title=unknown, paragraphs=())
    title = f"{found['device_map']} · {found['quantization']} on {found['hardware']}: {word.text}"
    texts = {"reason": cell_text(found["reason"]), "answer": cell_text(found.get("answer")), "error": error[:8000]}
    said = html(scoped("widgets/matrix_details", title=title, cause=cause, **texts))
    try:
        return said, PlacementExplorer(placement_of(results, spec), Choice()).build()
    except DiagError as problem:
        why = f"The placement can't be read: {problem.what}"
        if found["status"] == "unsupported":
            why = "There is no placement to explore: the load was refused before it began."
        elif is_missing(found["load_seconds"]):
            why = "There is no placement to explore: the load did not finish."
        return said, html(scoped("said", words=why))
