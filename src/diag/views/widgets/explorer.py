"""placement_explorer(): a placement table to filter, with totals that follow, and its rows to sort and search.

itables, an optional library (`pip install "diag[explore]"`), sorts and searches. It needs no network: its script
travels with the table, in a saved notebook too. Source: itables 2.9.1, whose `to_html_datatable(connected=False)`
leaves the script to the caller.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from diag.models.table import by_device
from diag.values.outcome import LoadOutcome
from diag.values.redact import redact
from diag.values.text import visible
from diag.values.units import format_size
from diag.views.markup import View, render
from diag.views.plots import strips_of
from diag.views.shown import outcome_view
from diag.views.strips import place_of
from diag.views.widgets.choosing import ANY, FILTERS, ORDERS, SIZES, Choice, condensed, totals_text
from diag.views.widgets.live import Live, control, html, row, scoped, status

if TYPE_CHECKING:
    from ipywidgets import Widget

_TEXT_ROWS, _PLAIN_ROWS = 20, 200
MOST_ROWS = 4000  # a saved notebook grows by half a megabyte with them, and by one for the script
_LOOKS = {"maxBytes": 0, "showIndex": False, "autoWidth": False, "classes": "display compact", "style": "width:100%"}
_HINT = f' `pip install "diag[explore]"` lets you sort and search {MOST_ROWS:,} of them here.'


def placement_explorer(what: object, choice: Choice | None = None) -> PlacementExplorer | View:
    """Explores a model, a LoadOutcome, or a table that `placement` or `placement_of` returned.

    The table is taken now and is not followed; no model is kept. A load that failed has no table: its error is shown
    instead. Raises NotAModelError for anything else.
    """
    if isinstance(what, LoadOutcome) and not what.ok:
        return outcome_view(what)
    if not isinstance(what, pd.DataFrame):
        from diag.models.table import placement

        what = placement(what.model if isinstance(what, LoadOutcome) else what)
    return PlacementExplorer(what, choice or Choice())


class PlacementExplorer(Live):
    """Filters, a layer strip, totals and rows; `chosen` is the filtered table as a DataFrame."""

    def __init__(self, frame: pd.DataFrame, choice: Choice) -> None:
        self.table, self.choice = frame, choice
        self.chosen = choice.apply(frame)

    def view(self) -> View:
        """Totals and rows; the rows can be sorted and searched where a plain table would leave some out."""
        is_sortable = len(self.chosen) > _PLAIN_ROWS and has_itables()
        shown = self.chosen[: MOST_ROWS if is_sortable else _PLAIN_ROWS]
        says = self._says(len(shown))
        rows = sortable_html(cells_of(shown)) if is_sortable else render("widgets/explorer_rows", **_plain(shown, says))
        summary, text = render("widgets/explorer_summary", **self._totals()), [totals_text(self.chosen, self.table)]
        if len(shown):
            first = shown[["name", "device", "backing", "nbytes", "shape", "dtype"]][:_TEXT_ROWS]
            text += [strips_of({"Layers": self.chosen}).text, by_device(self.chosen).to_string(index=False)]
            text.append(f"{self._says(len(first))}\n{first.to_string(index=False)}")
        return View(summary + render("widgets/folded", summary=says, content=rows), "\n\n".join(text))

    def _totals(self) -> dict[str, object]:
        """Totals in a sentence and per device, and the strip of what was chosen."""
        strip = strips_of({"Layers": condensed(self.chosen)}).html if len(self.chosen) else ""
        sums = by_device(self.chosen).to_numpy()
        totals = [(*place, f"{n:,}", f"{numel:,}", format_size(nbytes)) for *place, n, numel, nbytes in sums]
        return {"words": totals_text(self.chosen, self.table), "strip": strip, "totals": totals}

    def _says(self, shown: int) -> str:
        """Which rows are shown, and how to get the others."""
        total = len(self.chosen)
        if shown == total:
            return f"All {total:,} rows." if total else "No rows."
        rest = f"Rows 1–{shown:,} of {total:,}; the others are in the DataFrame: explorer.chosen[{shown}:]."
        return rest if has_itables() else rest + _HINT

    def build(self) -> Widget:
        from ipywidgets import VBox

        sizes = [(f"{format_size(size)} or more" if size else ANY, size) for size in {*SIZES, self.choice.at_least}]
        values = {name: self.table[name].value_counts().index for name in FILTERS}  # the most frequent first
        self._controls = {
            **{name: control("Dropdown", name, options=[ANY, *map(str, values[name])]) for name in FILTERS},
            "module": control("Text", "name", placeholder="layers.3 or *.mlp.*", continuous_update=False),
            "at_least": control("Dropdown", "size", options=sorted(sizes, key=lambda size: size[1])),
            "order": control("Dropdown", "order", options=ORDERS),
        }
        for name, widget in self._controls.items():
            wanted = getattr(self.choice, name)
            widget.value = wanted if name not in FILTERS or wanted in widget.options else ANY
            widget.observe(lambda _: self._filter(), "value")
        self._summary, self._rows = html(), html()
        self._sortable = sortable_widget(cells_of(self.table[:0])) if has_itables() else None
        self._show()
        shown = [row(*self._controls.values()), self._summary, self._rows]
        return VBox(shown if self._sortable is None else [*shown, self._sortable])

    def _filter(self) -> None:
        self.choice = Choice(**{name: widget.value for name, widget in self._controls.items()})
        self.chosen = self.choice.apply(self.table)
        self._show()

    def _show(self) -> None:
        self._summary.value = scoped("widgets/explorer_summary", **self._totals())
        shown = self.chosen[: _PLAIN_ROWS if self._sortable is None else MOST_ROWS]
        says = self._says(len(shown))
        if self._sortable is None:
            self._rows.value = scoped("widgets/explorer_rows", **_plain(shown, says))
        else:
            self._rows.value = status(says)
            self._sortable.df = cells_of(shown)


def _plain(table: pd.DataFrame, caption: str) -> dict[str, object]:
    """What the template of a plain table takes: each row's cells, and whether nobody holds its data."""
    cells = cells_of(table)
    lines = list(zip(table["backing"] == "none", cells.itertuples(index=False)))
    return {"columns": list(cells.columns), "lines": lines, "caption": caption}


def cells_of(table: pd.DataFrame) -> pd.DataFrame:
    """What is shown of each row: redacted text; sizes are in the order of their bytes, so that they sort by it."""
    places = map(place_of, table["device"], table["mapped_device"], table["backing"])
    packed = table["quantization"].where(table["quantization"] != "none")
    cells = pd.DataFrame(
        {
            "tensor": table["name"],
            "where": [place.text for place in places],
            "size": table["nbytes"].map(format_size),
            "shape": ["\u00a0×\u00a0".join(map(str, shape)) or "scalar" for shape in table["shape"]],
            "dtype": table["dtype"].where(packed.isna(), table["dtype"] + " (" + packed + ")"),
            "class": table["module_class"],
        }
    )
    cells = cells.map(lambda text: visible(redact(str(text))))
    sizes = table["nbytes"].sort_values().map(format_size).unique()
    return cells.assign(size=pd.Categorical(cells["size"], sizes, ordered=True))


def has_itables() -> bool:
    """Whether itables is installed, and what its widget is made with."""
    return find_spec("itables") is not None and find_spec("anywidget") is not None


def sortable_html(frame: pd.DataFrame) -> Markup:
    """The rows, escaped, with the script that sorts and searches them; where no script may run, a plain table."""
    from itables import options, to_html_datatable
    from itables.javascript import generate_init_offline_itables_html

    script = generate_init_offline_itables_html(options.dt_bundle)
    looks = {**_LOOKS, "display_logo_when_loading": False}
    return Markup(script + to_html_datatable(frame, connected=False, **looks))  # type: ignore[arg-type]


def sortable_widget(frame: pd.DataFrame) -> Widget:
    """The same as a widget; give its `df` another frame to show that one."""
    from itables.widget import ITable

    return ITable(frame, **_LOOKS)  # type: ignore[arg-type]
