"""matrix_panel(): choose, price, run and cancel a matrix with the mouse or keyboard; rows appear as cells finish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import RLock
from typing import Any

import pandas as pd

from diag.errors import DiagError
from diag.spec import PRESETS, LoadSpec, grid
from diag.views import summary
from diag.views.markup import View, escape, table, tag
from diag.views.rows import badge
from diag.views.widgets.details import details_of, row_line
from diag.views.widgets.form import Form
from diag.views.widgets.kept import stored_rows
from diag.views.widgets.live import Live, button, failure, html, row, scoped
from diag.views.widgets.paging import Pager
from diag.views.widgets.running import Run
from diag.views.wording import map_text


def matrix_panel(
    model: str = "tiny",
    device_maps: Iterable[Any] = PRESETS,
    quantizations: Iterable[Any] = ("none", "int8", "nf4"),
    hardware: Iterable[str] | str | None = None,
    *,
    results: str = "results.sqlite",
    timeout: float = 600.0,
    workers: int | None = None,
) -> MatrixPanel:
    """The load matrix as a panel. The arguments are those of `diag.grid` and `diag.matrix`, and what it starts with.

    Nothing runs until Run is pressed, or `start()` is called. Raises SpecError for values that are not valid.
    """
    return MatrixPanel(grid(model, device_maps, quantizations, hardware), results, timeout, workers)


class MatrixPanel(Live):
    """`start`, `cancel` and `wait` do what the buttons do; `frame` holds the rows that are known."""

    def __init__(self, specs: Sequence[LoadSpec], results: str, timeout: float, workers: int | None) -> None:
        self.specs, self.results = list(specs), results
        self._options = {"timeout": timeout, "workers": workers}
        self._lock = RLock()
        self._rows: list[dict[str, Any]] = []
        self._run: Run | None = None
        self._built = False

    @property
    def frame(self) -> pd.DataFrame:
        """The rows known so far as a matrix frame, those of the last run in the order given once it is over."""
        from diag.sweep.rows import frame_of

        if self._run is not None and self._run.frame is not None:
            return self._run.frame
        with self._lock:
            return frame_of(list(self._rows))

    def start(self) -> None:
        """Starts the run beside the notebook. Finished rows are kept in `results`; only what is missing is loaded."""
        if self._run is not None and self._run.running:
            return
        with self._lock:
            self._rows = []
        self._run = Run(self.specs, self.results, self._options, self._add, self._end)
        self._say(f"Planning {len(self.specs)} rows …", running=True)
        self._run.start()

    def cancel(self) -> None:
        """Stops the run; what is finished stays."""
        if self._run is not None:
            self._run.cancel()

    def wait(self, timeout: float | None = None) -> pd.DataFrame:
        """Waits until the run is over (or `timeout` seconds) and returns the frame."""
        if self._run is not None:
            self._run.wait(timeout)
            if self._run.error is not None:
                raise self._run.error
        return self.frame

    def view(self) -> View:
        """What is stored of this grid, or else what it would run."""
        stored = stored_rows(self.specs, self.results)
        if not stored:
            return _offer(self.specs, self.results)
        from diag.sweep.rows import blank_row, frame_of

        waiting = "Not run yet."
        rows = [stored.get(spec) or blank_row(spec, "not_run", waiting) for spec in self.specs]
        says = f"{len(stored)} of {len(rows)} rows are in {self.results}."
        return summary.overview(frame_of(rows)) + View(tag("p", escape(says), class_="soft"), says)

    # --- the widgets --------------------------------------------------------------------------------------------------

    def build(self) -> Any:
        from ipywidgets import IntProgress, Layout, VBox

        self._form = Form(self.specs, self.results)
        self._price, self._go = button("Price", self._show_price), button("Run", self._press_run, style="primary")
        self._stop = button("Cancel", self.cancel, style="warning")
        self._stop.disabled = True
        self._bar = IntProgress(min=0, max=len(self.specs), layout=Layout(flex="1 1 10rem", width="auto"))
        self._status, self._list, self._details = html(), VBox(), VBox()
        self._pager = Pager(self._show_rows)
        self._pager.start(0)
        self._built = True
        buttons = row(self._price, self._go, self._stop, self._bar)
        return VBox([self._form.widget, buttons, self._status, self._pager.widget, self._list, self._details])

    def _read_form(self) -> bool:
        try:
            self.specs, self.results = self._form.specs(), self._form.results
        except (DiagError, ValueError) as error:
            self._status.value = failure(error)
            return False
        return True

    def _press_run(self) -> None:
        if self._read_form():
            self._details.children = ()
            self.start()

    def _show_price(self) -> None:
        if not self._read_form():
            return
        self._say("Planning, without reading a weight …")
        from diag.sweep.run import price

        try:
            found = price(self.specs, self.results)
        except Exception as error:
            self._status.value = failure(error)
            return
        refusals = "".join(tag("li", escape(text)) for text in (*found.hindrances, *found.refusals))
        self._status.value = scoped(tag("p", escape(found), role="status") + tag("ul", refusals))

    def _add(self, found: dict[str, Any]) -> None:
        with self._lock:
            self._rows.append(found)
            if self._built:
                self._pager.grow(len(self._rows))
                self._show_rows()
                self._bar.value = len(self._rows)
        self._say(f"{len(self._rows)} of {len(self.specs)} rows", running=True)

    def _end(self) -> None:
        assert self._run is not None
        error, done = self._run.error, len(self._rows)
        if error is not None and self._built:
            self._status.value = failure(error)
        elif self._run.cancelled:
            self._say(f"Cancelled after {done} of {len(self.specs)} rows. They are kept; Run goes on from there.")
        else:
            self._say(f"Done: {done} rows. Choose one for its placement and cause.")
        self._show_buttons(running=False)

    def _say(self, words: str, running: bool = False) -> None:
        if self._built:
            self._status.value = scoped(tag("p", escape(words), role="status"))
            self._show_buttons(running)

    def _show_buttons(self, running: bool) -> None:
        if self._built:
            self._go.disabled = self._price.disabled = running
            self._stop.disabled = not running
            self._bar.max = len(self.specs)
            self._bar.value = len(self._rows)

    def _show_rows(self) -> None:
        with self._lock:
            shown = self._rows[self._pager.page.rows]
            self._list.children = tuple(self._line(found) for found in shown)

    def _line(self, found: dict[str, Any]) -> Any:
        name = f"{map_text(found['device_map'])} · {map_text(found['quantization'], 40)}"
        press = button(name, lambda: self._open(found), tooltip=f"Show the placement and cause of {name}")
        press.layout.flex, press.layout.min_width = "0 0 auto", "11rem"
        return row(press, html(row_line(found), layout={"flex": "1 1 14rem", "width": "auto"}))

    def _open(self, found: dict[str, Any]) -> None:
        spec = next((spec for spec in self.specs if _is_row_of(found, spec)), None)
        self._details.children = details_of(found, spec, self.results)


def _is_row_of(found: dict[str, Any], spec: LoadSpec) -> bool:
    facts = (spec.model, spec.device_map_text, spec.quantization, spec.hardware_text)
    return facts == tuple(found[name] for name in ("model", "device_map", "quantization", "hardware"))


def _offer(specs: Sequence[LoadSpec], results: str) -> View:
    columns = ("device map", "quantization", "hardware")
    lines = [
        (escape(map_text(spec.device_map_text)), escape(spec.quantization), badge(spec.hardware_text) or "this machine")
        for spec in specs
    ]
    says = f"{len(specs)} rows to run: diag.matrix(specs, results={results!r}) runs them without this panel."
    head = tag("p", escape(says))
    folded = tag("details", tag("summary", "the rows") + table(columns, lines, says))
    words = [f"{map_text(spec.device_map_text)} · {spec.quantization} on {spec.hardware_text}" for spec in specs]
    return View(head + folded, "\n".join([says, *words]))
