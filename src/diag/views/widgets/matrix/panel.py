"""matrix_panel(): choose, price, run and cancel a matrix with the mouse or keyboard; rows appear as cells finish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import RLock
from typing import Any

import pandas as pd

from diag.errors import DiagError
from diag.values.spec import PRESETS, LoadSpec, grid
from diag.views.markup import View, escape, table, tag
from diag.views.report import summary
from diag.views.rows import badge
from diag.views.widgets.live import Live, button, failure, html, mark_usable, row, scoped
from diag.views.widgets.matrix.details import details_of
from diag.views.widgets.matrix.form import Form
from diag.views.widgets.matrix.kept import stored_rows
from diag.views.widgets.matrix.rowlist import RowKey, RowList, key_of
from diag.views.widgets.matrix.running import Clock, Run, Task
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
        self._known: dict[RowKey, dict[str, Any]] = {}  # what is listed: stored before, then as the run confirms it
        self._run: Run | None = None
        self._pricing: Task | None = None
        self._built = False

    @property
    def frame(self) -> pd.DataFrame:
        """The rows known so far as a matrix frame, those of the last run in the order given once it is over."""
        from diag.sweep.results.rows import frame_of

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
            self._known = {key_of(found): found for found in self._stored()}
            before = len(self._known)
        self._run = Run(self.specs, self.results, self._options, self._add, self._end)
        kept = f" {before} of them are in {self.results} from before." if before else ""
        self._say(f"Planning {len(self.specs)} rows, without reading a weight …{kept}")
        self._show_buttons(running=True)
        self._show_rows()
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
        from diag.sweep.results.rows import blank_row, frame_of

        waiting = "Not run yet."
        rows = [stored.get(spec) or blank_row(spec, "not_run", waiting) for spec in self.specs]
        says = f"{len(stored)} of {len(rows)} rows are in {self.results}."
        return summary.overview(frame_of(rows)) + View(tag("p", escape(says), class_="soft"), says)

    # --- the widgets --------------------------------------------------------------------------------------------------

    def build(self) -> Any:
        from ipywidgets import IntProgress, Layout, VBox

        self._form = Form(self.specs, self.results)
        self._price, self._go = button("Price", self._press_price), button("Run", self._press_run, primary=True)
        self._stop = button("Cancel", self._press_cancel)
        self._bar = IntProgress(min=0, max=len(self.specs), layout=Layout(flex="1 1 10rem", width="auto"))
        self._status, self._seconds = html(), html()
        self._clock = Clock(lambda seconds: self._tell_time(f"{seconds} s"))
        self._list = RowList(self._details)
        self._built = True
        self._show_buttons(running=bool(self._busy()))
        self._show_rows()
        buttons = row(self._price, self._go, self._stop, self._bar, self._seconds)
        return VBox([self._form.widget, buttons, self._status, self._list.widget])

    def _read_form(self) -> bool:
        try:
            self.specs, self.results = self._form.specs(), self._form.results
        except (DiagError, ValueError) as error:
            self._status.value = failure(error)
            return False
        return True

    def _busy(self) -> str:
        """What is going on, in a sentence; empty where nothing is."""
        if self._run is not None and self._run.running:
            return "The matrix is running; press Cancel to stop it."
        if self._pricing is not None and self._pricing.running:
            return "The price is still being planned; wait until it is there."
        return ""

    def _press_run(self) -> None:
        if busy := self._busy():
            self._say(busy)
        elif self._read_form():
            self._list.shut()
            self.start()

    def _press_cancel(self) -> None:
        running = self._run is not None and self._run.running
        self._say("Cancelling …" if running else self._busy() or "Nothing is running.")
        self.cancel()

    def _press_price(self) -> None:
        if busy := self._busy():
            self._say(busy)
        elif self._read_form():
            from diag.sweep.run import price

            specs, results = self.specs, self.results
            self._say(f"Planning {len(specs)} rows, without reading a weight …")
            self._show_buttons(running=True)
            self._pricing = Task(lambda: price(specs, results), self._show_price)

    def _show_price(self, found: Any) -> None:
        if isinstance(found, Exception):
            self._status.value = failure(found)
        else:
            refusals = "".join(tag("li", escape(text)) for text in (*found.hindrances, *found.refusals))
            self._status.value = scoped(tag("p", escape(found), role="status") + tag("ul", refusals))
        self._show_buttons(running=False)

    def _add(self, found: dict[str, Any]) -> None:
        with self._lock:
            self._rows.append(found)
            self._known[key_of(found)] = found
            self._show_rows()
            known = len(self._known)
        self._say(f"{known} of {len(self.specs)} rows")

    def _end(self) -> None:
        assert self._run is not None
        error, done = self._run.error, len(self._known)
        if error is not None and self._built:
            self._status.value = failure(error)
        elif self._run.cancelled:
            self._say(f"Cancelled at {done} of {len(self.specs)} rows. They are kept; Run goes on from there.")
        else:
            self._say(f"Done: {done} rows. Choose one for its placement and cause.")
        self._show_buttons(running=False)

    def _stored(self) -> list[dict[str, Any]]:
        """The rows of this grid that the results file holds and that a run would not do again."""
        from diag.sweep.results.finality import is_final

        return [found for found in stored_rows(self.specs, self.results).values() if is_final(found, False)]

    def _say(self, words: str) -> None:
        if self._built:
            self._status.value = scoped(tag("p", escape(words), role="status"))

    def _tell_time(self, words: str) -> None:
        """Beside the bar and apart from the status, which a screen reader would read out every second."""
        self._seconds.value = scoped(tag("span", escape(words), class_="soft number"))

    def _show_buttons(self, running: bool) -> None:
        if not self._built:
            return
        if running:
            self._tell_time("")
            self._clock.start()
        else:
            self._clock.stop()
        busy = "something is running" if running else ""
        for one in (self._go, self._price):
            mark_usable(one, busy)
        mark_usable(self._stop, "" if running else "nothing is running")
        self._bar.max, self._bar.value = len(self.specs), len(self._known)

    def _show_rows(self) -> None:
        if not self._built:
            return
        with self._lock:
            several = len({spec.hardware_text for spec in self.specs}) > 1
            self._list.show(list(self._known.values()), several)
            self._bar.max, self._bar.value = len(self.specs), len(self._known)

    def _details(self, found: dict[str, Any]) -> tuple[Any, ...]:
        spec = next((spec for spec in self.specs if _is_row_of(found, spec)), None)
        return details_of(found, spec, self.results)


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
