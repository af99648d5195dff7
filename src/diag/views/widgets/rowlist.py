"""The rows of a matrix as buttons: they arrive one by one, keep the keyboard's focus, and one is opened below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from diag.values.spec import LoadSpec
from diag.views.widgets.details import Row, row_line
from diag.views.widgets.live import button, close, html, row
from diag.views.wording import map_text

if TYPE_CHECKING:
    from ipywidgets import Widget


class RowList:
    """Rows in a box that scrolls, and the details of the one that was pressed right below it.

    A line is made once and used again for other rows, so that a button which has the focus is never replaced.
    `details` gives the widgets for a row; they are closed when another one is opened.
    """

    def __init__(self, details: Callable[[LoadSpec, Row], tuple[Widget, ...]]) -> None:
        from ipywidgets import Layout, VBox

        self._details_of = details
        self._rows: Mapping[LoadSpec, Row] = {}
        self._with_hardware = False
        self._lines: list[_Line] = []
        self._open: LoadSpec | None = None
        self.lines = VBox(layout=Layout(max_height="19rem", overflow="auto", flex="0 0 auto"))
        self.details = VBox()
        self.widget = VBox([self.lines, self.details])

    def show(self, rows: Mapping[LoadSpec, Row], with_hardware: bool) -> None:
        """The rows known now. Names say the hardware too where rows differ in it."""
        self._rows, self._with_hardware = rows, with_hardware
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
            self.details.children = self._details_of(spec, self._rows[spec])


class _Line:
    """A button with a row's name and, beside it, its verdict. All lines share the layouts and styles of the first."""

    def __init__(self, press: Callable[[LoadSpec], None], first: _Line | None) -> None:
        self._spec: LoadSpec | None = None
        self._found: Row | None = None
        self._press = press
        self.button = button("", self._pressed, **_looks(first and first.button))  # type: ignore[arg-type, has-type]
        self._verdict = html(**_looks(first and first._verdict))  # type: ignore[arg-type, has-type]
        self.widget = row(self.button, self._verdict, **_looks(first and first.widget))  # type: ignore[has-type]
        if first is None:
            self.button.layout.flex, self.button.layout.min_width = "0 0 auto", "11rem"
            self._verdict.layout.flex, self._verdict.layout.width = "1 1 14rem", "auto"
            self.widget.layout.flex = "0 0 auto"

    def _pressed(self) -> None:
        if self._spec is not None:
            self._press(self._spec)

    def show(self, spec: LoadSpec, found: Row, with_hardware: bool, is_open: bool) -> None:
        name = f"{map_text(spec.device_map_text)} · {map_text(spec.quantization, 40)}"
        name += f" · {spec.hardware_text}" if with_hardware else ""
        self.button.description = f"▾ {name}" if is_open else name
        self.button.tooltip = f"{name} is shown below; press again to close it" if is_open else f"Show {name} below"
        (self.button.add_class if is_open else self.button.remove_class)("diag-open")
        self._spec = spec
        if found is not self._found:
            self._found = found
            self._verdict.value = row_line(found)


def _looks(widget: Widget | None) -> dict[str, object]:
    """Layout and style of a widget, for another one that looks the same; a front end then holds them once."""
    return {name: getattr(widget, name) for name in ("layout", "style") if hasattr(widget, name)}
