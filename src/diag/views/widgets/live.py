"""What every widget shares: it shows itself live where a front end watches, and as a static view everywhere else."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from diag.machine.audience import has_front_end
from diag.views.markup import View, escape, fragment, notice, style_tag

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


class Live:
    """Base of the widgets. A subclass gives `view()`, the static form, and `build()`, the ipywidgets form."""

    def view(self) -> View:
        raise NotImplementedError

    def beside(self) -> View:
        """What a notebook keeps beside the live widget, for whoever opens it later without a kernel."""
        return self.view()

    def build(self) -> Any:
        raise NotImplementedError

    @cached_property
    def widget(self) -> Any:
        """The ipywidgets form, made once; for a layout of one's own, or a front end that was not recognised."""
        from ipywidgets import HTML, VBox

        box = VBox([HTML(style_tag()), self.build()])
        box.add_class("diag-live")
        return box

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Both forms: a front end prefers the widget, a saved notebook keeps the static one."""
        if not has_front_end():
            return self.view()._repr_mimebundle_()
        return {**self.beside()._repr_mimebundle_(), WIDGET_MIME: self.widget._repr_mimebundle_()[WIDGET_MIME]}

    def __repr__(self) -> str:
        return self.beside().text


def html(content: str = "", **traits: Any) -> Any:
    """An HTML widget whose content is scoped to diag's style sheet."""
    from ipywidgets import HTML

    return HTML(scoped(content), **traits)


def scoped(content: str) -> str:
    """Content inside diag's style; the sheet itself comes once with the widget."""
    return fragment(content).removeprefix(style_tag())


def control(kind: str, description: str, **traits: Any) -> Any:
    """A labelled control that shares a row with its neighbours and wraps on a narrow screen."""
    import ipywidgets

    widget = getattr(ipywidgets, kind)(description=description, style={"description_width": "initial"}, **traits)
    widget.layout.flex, widget.layout.width, widget.layout.min_width = "1 1 13rem", "auto", "0"
    return widget


def button(description: str, act: Any, *, primary: bool = False, tooltip: str = "", **looks: Any) -> Any:
    """A button that calls `act()`."""
    from ipywidgets import Button, Layout

    looks = looks or {"layout": Layout(width="auto")}
    made = Button(description=description, button_style="primary" if primary else "", tooltip=tooltip or description,
                  **looks)  # fmt: skip
    made.on_click(lambda _: act())
    return made


def mark_usable(button: Any, why_not: str = "") -> None:
    """Marks a button as one that would do nothing now, and says why; without a reason it is usable again.

    It is never disabled: a front end takes the focus from a disabled button, and whoever works with the keyboard
    then starts from the top of the page. What it calls has to answer instead.
    """
    (button.add_class if why_not else button.remove_class)("diag-off")
    button.tooltip = f"{button.description}: {why_not}" if why_not else button.description


def is_usable(button: Any) -> bool:
    return "diag-off" not in button._dom_classes


def close(*widgets: Any) -> None:
    """Closes widgets with all that is in them: what is only taken out of its box stays alive in kernel and browser."""
    for widget in widgets:
        close(*getattr(widget, "children", ()))
        for name in ("layout", "style"):
            if (part := getattr(widget, name, None)) is not None:
                part.close()
        widget.close()


def failure(error: BaseException) -> str:
    """An error inside a widget as a notice: a front end hides what a callback raises."""
    first, *rest = f"{type(error).__name__}: {error}".splitlines()
    return scoped(notice("bad", first, map(escape, rest)))


def row(*children: Any, **looks: Any) -> Any:
    """Children side by side, wrapping."""
    from ipywidgets import Box, Layout

    if "layout" not in looks:
        looks["layout"] = Layout(display="flex", flex_flow="row wrap", align_items="center", width="100%",
                                 grid_gap=".25rem")  # fmt: skip
    return Box(list(children), **looks)
