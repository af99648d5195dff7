"""placement_explorer(): a placement table to filter and page through, with totals that follow the filter."""

from __future__ import annotations

from typing import Any

import pandas as pd

from diag.models.totals import by_device
from diag.values.outcome import LoadOutcome
from diag.values.text import sentence
from diag.values.units import format_size
from diag.views.markup import View, breakable, escape, table, tag
from diag.views.plots import strips_of
from diag.views.shown import outcome_view
from diag.views.strips import place_of
from diag.views.widgets.live import Live, control, html, row, scoped
from diag.views.widgets.matrix.choosing import ANY, ORDERS, SIZES, Choice, condensed, totals_text, values_of
from diag.views.widgets.paging import Page, Pager

_FILTERS = ("device", "backing", "kind", "dtype", "quantization")
_STATIC_ROWS, _TEXT_ROWS = 200, 20
_COLUMNS = ("tensor", "where", "size", "shape", "dtype", "class")


def placement_explorer(what: Any, choice: Choice | None = None) -> PlacementExplorer | View:
    """Explores a model, a LoadOutcome, or a table that `placement` or `placement_of` returned.

    The table is taken now and is not followed; no model is kept. A load that failed has no table: its error is shown
    instead. Raises NotAModelError for anything else.
    """
    if isinstance(what, LoadOutcome) and not what.ok:
        return outcome_view(what)
    return PlacementExplorer(_table_of(what), choice or Choice())


class PlacementExplorer(Live):
    """Filters, a layer strip, totals and pages; `chosen` is the filtered table as a DataFrame."""

    def __init__(self, frame: pd.DataFrame, choice: Choice) -> None:
        self.table, self.choice = frame, choice
        self.chosen = choice.apply(frame)

    def view(self) -> View:
        rows = Page(len(self.chosen), size=_STATIC_ROWS)
        rest = f"; the others are in the DataFrame: explorer.chosen[{rows.rows.stop}:]" if rows.count > 1 else ""
        says = sentence(f"{rows.says}{rest}")
        folded = tag("details", tag("summary", escape(says)) + _page(self.chosen, rows, says))
        lines = Page(len(self.chosen), size=_TEXT_ROWS)
        return View(_summary(self.chosen, self.table) + folded, _text(self.chosen, self.table, lines))

    def build(self) -> Any:
        from ipywidgets import VBox

        self._controls = {name: _dropdown(self.table, name, getattr(self.choice, name)) for name in _FILTERS}
        self._controls["module"] = control(
            "Text", "name", value=self.choice.module, placeholder="layers.3 or *.mlp.*", continuous_update=False
        )
        sizes = sorted({*SIZES.values(), self.choice.at_least})
        names = {size: text for text, size in SIZES.items()}
        options = [(names.get(size, f"{format_size(size)} or more"), size) for size in sizes]
        self._controls["at_least"] = control("Dropdown", "size", options=options, value=self.choice.at_least)
        self._controls["order"] = control("Dropdown", "order", options=ORDERS, value=self.choice.order)
        self._summary, self._rows, self._pager = html(), html(), Pager(self._show_page)
        for widget in self._controls.values():
            widget.observe(lambda _: self._filter(), "value")
        self._show()
        return VBox([row(*self._controls.values()), self._summary, self._pager.widget, self._rows])

    def _filter(self) -> None:
        self.choice = Choice(**{name: widget.value for name, widget in self._controls.items()})
        self.chosen = self.choice.apply(self.table)
        self._show()

    def _show(self) -> None:
        self._summary.value = scoped(_summary(self.chosen, self.table))
        self._pager.start(len(self.chosen))
        self._show_page()

    def _show_page(self) -> None:
        says = self._pager.page.says
        self._rows.value = scoped(_page(self.chosen, self._pager.page, sentence(says)))


def _table_of(what: Any) -> pd.DataFrame:
    if isinstance(what, pd.DataFrame):
        return what
    from diag.models.tensors import placement

    return placement(what.model if isinstance(what, LoadOutcome) else what)


def _dropdown(frame: pd.DataFrame, name: str, value: str) -> Any:
    options = values_of(frame, name)
    return control("Dropdown", name, options=options, value=value if value in options else ANY)


def _summary(chosen: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Totals in a sentence and per device, and the strip of what was chosen."""
    words = totals_text(chosen, frame)
    if not len(chosen):
        return tag("p", escape(f"{words}. Nothing fits the filter."), role="status")
    lines = [
        (escape(device), escape(backing), _number(f"{n:,}"), _number(f"{numel:,}"), _number(format_size(nbytes)))
        for device, backing, n, numel, nbytes in by_device(chosen).itertuples(index=False)
    ]
    columns = ("device", "backing", "tensors", "elements", "size")
    caption = "Each tied tensor once. On meta: the size of what is elsewhere, or nowhere."
    strip = strips_of({"Layers": condensed(chosen)})
    return tag("p", tag("strong", escape(words)), role="status") + strip.html + table(columns, lines, caption)


def _page(chosen: pd.DataFrame, page: Page, caption: str) -> str:
    return table(_COLUMNS, map(_line, chosen.iloc[page.rows].to_dict("records")), caption)


def _line(found: dict[Any, Any]) -> tuple[str, ...]:
    place = place_of(found["device"], found["mapped_device"], found["backing"])
    where = tag("span", escape(place.text), class_="status bad") if place.is_missing else escape(place.text)
    dtype = found["dtype"] if found["quantization"] == "none" else f"{found['dtype']} ({found['quantization']})"
    shape = "\u00a0×\u00a0".join(map(str, found["shape"])) or "scalar"
    size = _number(format_size(found["nbytes"]))
    return breakable(found["name"]), where, size, escape(shape), escape(dtype), escape(found["module_class"])


def _text(chosen: pd.DataFrame, frame: pd.DataFrame, page: Page) -> str:
    columns = ["name", "device", "backing", "nbytes", "shape", "dtype"]
    words, totals = totals_text(chosen, frame), by_device(chosen).to_string(index=False)
    rows = f"{page.says}:\n{chosen[columns].iloc[page.rows].to_string(index=False)}"
    return "\n\n".join([words, strips_of({"Layers": chosen}).text, totals, rows] if len(chosen) else [words])


def _number(text: str) -> str:
    return tag("span", escape(text), class_="number")
