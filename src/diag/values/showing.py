"""How values show themselves in a notebook: they ask here, and the views have registered what draws each class.

Values know no view. `diag` itself says where the drawing functions are, and they are imported when a notebook first
asks. Where none can be had, a notebook shows the value's plain text. `import diag` imports this file, so it imports
nothing itself.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from IPython.lib.pretty import RepresentationPrinter

    T = TypeVar("T")


class Drawing:
    """One value drawn: `html` stands alone in a notebook's output area, `text` is for terminals."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text


_drawn_by: dict[type, Callable[[Any], Drawing]] = {}
_sources: list[Callable[[], object]] = []


def register(kind: type[T], draw: Callable[[T], Drawing]) -> None:
    """From now on `draw` draws the values of this class."""
    _drawn_by[kind] = draw


def register_later(load: Callable[[], object]) -> None:
    """`load` is called when a value is first asked for its drawing; it registers the drawing functions."""
    _sources.append(load)


def drawing_of(value: object) -> Drawing | None:
    """What is registered for the value's class draws it; None where nothing is, or can't be imported."""
    while _sources:
        try:
            _sources.pop()()
        except ImportError:  # a library of the views is absent or broken
            return None
    draw = _drawn_by.get(type(value))
    return None if draw is None else draw(value)


class ShownAsHtml:
    """A value that a notebook shows as HTML, and a terminal as its `repr`."""

    def _repr_html_(self) -> str | None:
        drawing = drawing_of(self)
        return None if drawing is None else drawing.html


class Shown(ShownAsHtml):
    """A value that a notebook shows as HTML, and IPython in a terminal as its text."""

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        drawing = drawing_of(self)
        printer.text(repr(self) if drawing is None else drawing.text)  # type: ignore[no-untyped-call]
