"""The rows of a matrix as buttons: they arrive one by one, keep the keyboard's focus, and one is opened below them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diag.views.widgets.live import button, close, html, row, scoped
from diag.views.widgets.matrix.details import row_line
from diag.views.widgets.paging import Pager
from diag.views.wording import map_text

RowKey = tuple[str, ...]


def key_of(found: dict[str, Any]) -> RowKey:
    """What tells a row of a panel from the others."""
    return tuple(str(found[name]) for name in ("model", "device_map", "quantization", "hardware"))


class RowList:
    """A page of rows with a bounded height, and the details of the one that was pressed right below it.

    A line is made once and used again for other rows, so that a button which has the focus is never replaced.
    `details` gives the widgets for a row; they are closed when another one is opened.
    """

    def __init__(self, details: Callable[[dict[str, Any]], tuple[Any, ...]]) -> None:
        from ipywidgets import Layout, VBox

        self._details_of = details
        self._rows: Sequence[dict[str, Any]] = ()
        self._with_hardware = False
        self._lines: list[_Line] = []
        self._open: RowKey | None = None
        self.pager = Pager(self._draw)
        self.lines = VBox(layout=Layout(max_height="19rem", overflow="auto", flex="0 0 auto"))
        self.details = VBox()
        self.widget = VBox([self.pager.widget, self.lines, self.details])
        self.pager.start(0)

    def show(self, rows: Sequence[dict[str, Any]], with_hardware: bool = False) -> None:
        """The rows known now; the page stays. Names say the hardware too where rows differ in it."""
        self._rows, self._with_hardware = rows, with_hardware
        self.pager.grow(len(rows))
        self._draw()

    def shut(self) -> None:
        """No row is open any more."""
        self._open, old = None, self.details.children
        self.details.children = ()
        close(*old)
        self._draw()

    def _draw(self) -> None:
        shown = self._rows[self.pager.page.rows]
        while len(self._lines) < len(shown):
            self._lines.append(_Line(self._press, self._lines[0] if self._lines else None))
        for line, found in zip(self._lines, shown):
            line.show(found, self._with_hardware, key_of(found) == self._open)
        if len(self.lines.children) != len(shown):
            self.lines.children = tuple(line.widget for line in self._lines[: len(shown)])

    def _press(self, found: dict[str, Any]) -> None:
        again = key_of(found) == self._open
        self.shut()
        if not again:
            self._open = key_of(found)
            self._draw()
            self.details.children = self._details_of(found)


class _Line:
    """A button with a row's name and, beside it, its verdict. All lines share the layouts and styles of the first."""

    def __init__(self, press: Callable[[dict[str, Any]], None], first: _Line | None) -> None:
        self._found: dict[str, Any] = {}
        self.button: Any = button("", lambda: press(self._found), **_looks(first and first.button))
        self._verdict: Any = html("", **_looks(first and first._verdict))
        self.widget: Any = row(self.button, self._verdict, **_looks(first and first.widget))
        if first is None:
            self.button.layout.flex, self.button.layout.min_width = "0 0 auto", "11rem"
            self._verdict.layout.flex, self._verdict.layout.width = "1 1 14rem", "auto"
            self.widget.layout.flex = "0 0 auto"

    def show(self, found: dict[str, Any], with_hardware: bool, is_open: bool) -> None:
        name = f"{map_text(found['device_map'])} · {map_text(found['quantization'], 40)}"
        name += f" · {found['hardware']}" if with_hardware else ""
        self.button.description = f"▾ {name}" if is_open else name
        self.button.tooltip = f"{name} is shown below; press again to close it" if is_open else f"Show {name} below"
        (self.button.add_class if is_open else self.button.remove_class)("diag-open")
        if found is not self._found:
            self._found = found
            self._verdict.value = scoped(row_line(found))


def _looks(widget: Any) -> dict[str, Any]:
    """Layout and style of a widget, for another one that looks the same; a front end then holds them once."""
    if widget is None:
        return {}
    return {name: getattr(widget, name) for name in ("layout", "style") if hasattr(widget, name)}
