"""What every widget shares: it is live where a front end watches and a static view elsewhere; and the controls."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from diag.machine.audience import has_front_end
from diag.values.text import error_line
from diag.views.markup import View, render

if TYPE_CHECKING:
    from ipywidgets import HTML, Box, Button, Widget

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


class Live:
    """Base of the widgets. A subclass gives `view()`, the static form, and `build()`, the ipywidgets form."""

    def view(self) -> View:
        raise NotImplementedError

    def beside(self) -> View:
        """What a notebook keeps beside the live widget, for whoever opens it later without a kernel."""
        return self.view()

    def build(self) -> Widget:
        raise NotImplementedError

    @cached_property
    def widget(self) -> Box:
        """The ipywidgets form, made once; for a layout of one's own, or a front end that was not recognised."""
        from ipywidgets import HTML, VBox

        box = VBox([HTML(render("style")), self.build()])
        box.add_class("diag-live")
        return box

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        """Both forms: a front end prefers the widget, a saved notebook keeps the static one."""
        if not has_front_end():
            return self.view()._repr_mimebundle_()
        return {**self.beside()._repr_mimebundle_(), WIDGET_MIME: self.widget._repr_mimebundle_()[WIDGET_MIME]}

    def __repr__(self) -> str:
        return self.beside().text


def html(content: str = "", **looks: object) -> HTML:
    """A widget that shows HTML, such as `scoped` makes it."""
    from ipywidgets import HTML

    return HTML(content, **looks)


def scoped(template: str, /, **values: object) -> str:
    """A template's HTML inside diag's style; the style sheet itself comes once with the widget."""
    return render("widgets/scoped", content=render(template, **values))


def status(words: str, notes: Sequence[str] = ()) -> str:
    """A line that a screen reader reads out when it changes, and notes below it."""
    return scoped("status", words=words, notes=notes)


def failure(error: BaseException) -> str:
    """An error inside a widget as a notice: a front end hides what a callback raises."""
    rest = str(error).strip().splitlines()[1:]
    return scoped("notice", tone="bad", title=error_line(error), paragraphs=rest)


def control(kind: str, description: str, **traits: object) -> Widget:
    """A labelled control that shares a row with its neighbours and wraps on a narrow screen."""
    import ipywidgets

    widget = getattr(ipywidgets, kind)(description=description, style={"description_width": "initial"}, **traits)
    widget.layout.flex, widget.layout.width, widget.layout.min_width = "1 1 13rem", "auto", "0"
    return widget


def button(description: str, act: Callable[[], object], *, primary: bool = False, **looks: object) -> Button:
    """A button that calls `act()`; `looks` are a layout and a style that it shares with another one."""
    from ipywidgets import Button

    style, looks = "primary" if primary else "", looks or {"layout": {"width": "auto"}}
    made = Button(description=description, tooltip=description, button_style=style, **looks)
    made.on_click(lambda _: act())
    return made


def row(*children: Widget, **looks: object) -> Box:
    """Children side by side, wrapping."""
    from ipywidgets import Box

    wrapping = {"display": "flex", "flex_flow": "row wrap", "align_items": "center", "grid_gap": ".25rem"}
    return Box(list(children), **(looks or {"layout": {"width": "100%", **wrapping}}))


def mark_usable(button: Button, why_not: str = "") -> None:
    """Marks a button as one that would do nothing now, and says why; without a reason it is usable again.

    It is never disabled: that would take the keyboard's focus from it. What it calls has to answer instead.
    """
    (button.add_class if why_not else button.remove_class)("diag-off")
    button.tooltip = f"{button.description}: {why_not}" if why_not else button.description


def close(*widgets: Widget) -> None:
    """Closes widgets with all that is in them: what is only taken out of its box stays alive in kernel and browser."""
    from ipywidgets import Widget

    for widget in widgets:
        close(*getattr(widget, "children", ()))
        for name in ("layout", "style"):
            if isinstance(part := getattr(widget, name, None), Widget):
                part.close()
        widget.close()


class Clicks:
    """Tells clicks that come too late: made while the one before was still at work, and heard only afterwards.

    How long the work of each click took is held against the front end's clock, so that two clocks are never compared.
    """

    def __init__(self) -> None:
        self._began: datetime | None = None
        self._seconds = 0.0

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Around what a click sets off."""
        self._began, start = _sent_at(), time.monotonic()
        try:
            yield
        finally:
            self._seconds = time.monotonic() - start

    @property
    def too_early(self) -> bool:
        """Whether this click was made before the work of the last one was done; False where nobody sent it."""
        sent = _sent_at()
        return sent is not None and self._began is not None and (sent - self._began).total_seconds() < self._seconds


def _sent_at() -> datetime | None:
    """When the front end sent the message that is handled now."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    parent = None if kernel is None else kernel.get_parent()
    date = (parent or {}).get("header", {}).get("date")
    return date if isinstance(date, datetime) else None
