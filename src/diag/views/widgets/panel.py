"""matrix_panel(): choose, price, run and cancel a matrix with the mouse or keyboard; rows appear as cells finish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Event, RLock
from typing import TYPE_CHECKING, Any

import pandas as pd

from diag.errors import DiagError
from diag.values.spec import PRESETS, LoadSpec, grid
from diag.views.markup import View, render
from diag.views.report import summary
from diag.views.widgets.form import Form
from diag.views.widgets.live import Live, button, failure, html, mark_usable, row, scoped, status
from diag.views.widgets.rowlist import Row, RowList
from diag.views.widgets.running import Background, Clock, Interrupts
from diag.views.wording import map_text

if TYPE_CHECKING:
    from ipywidgets import Widget

    from diag.sweep.pricing import Price


def matrix_panel(
    model: str = "tiny",
    device_maps: Iterable[object] = PRESETS,
    quantizations: Iterable[object] = ("none", "int8", "nf4"),
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
        self._options: dict[str, Any] = {"timeout": timeout, "workers": workers, "progress": False}
        self._lock = RLock()
        self._rows: dict[LoadSpec, Row] = {}  # what is listed: stored before, then as the run confirms it
        self._run: Background[pd.DataFrame] | None = None
        self._cancelled = Event()
        self._interrupts = Interrupts(self.cancel)
        self._pricing: Background[Price] | None = None
        self._built = False

    @property
    def frame(self) -> pd.DataFrame:
        """The rows known so far as a matrix frame, those of the last run in the order given once it is over."""
        from diag.sweep.results.rows import frame_of

        if self._run is not None and self._run.value is not None:
            return self._run.value
        with self._lock:
            return frame_of(list(map(dict, self._rows.values())))

    def start(self) -> None:
        """Starts the run beside the notebook. Finished rows are kept in `results`; only what is missing is loaded.

        Interrupting the kernel cancels it.
        """
        from diag.sweep.results.finality import is_final

        if self._is_running():
            return
        stored = stored_rows(self.specs, self.results)
        with self._lock:
            self._rows = {spec: found for spec, found in stored.items() if is_final(dict(found), False)}
            before = len(self._rows)
        self._cancelled.clear()
        self._run = Background(self._matrix, self._end)
        kept = f" {before} of them are in {self.results} from before." if before else ""
        self._tell(f"Planning {len(self.specs)} rows, without reading a weight …{kept}", running=True)
        self._show_rows()
        self._interrupts.start()
        self._run.start()

    def cancel(self) -> None:
        """Stops the run; what is finished stays."""
        self._cancelled.set()

    def wait(self, timeout: float | None = None) -> pd.DataFrame:
        """Waits until the run is over (or `timeout` seconds) and returns the frame.

        A KeyboardInterrupt cancels the run, waits for it to stop, and is raised again.
        """
        if self._run is None:
            return self.frame
        try:
            self._run.join(timeout)
        except KeyboardInterrupt:
            self.cancel()
            self._run.join(10)
            raise
        if self._run.error is not None:
            raise self._run.error
        return self.frame

    def view(self) -> View:
        """What is stored of this grid, or else what it would run."""
        from diag.sweep.results.rows import blank_row, frame_of

        stored = stored_rows(self.specs, self.results)
        if not stored:
            call = f"diag.matrix(specs, results={self.results!r})"
            says = f"{len(self.specs)} rows to run: {call} runs them without this panel."
            cells = [(map_text(spec.device_map_text), spec.quantization, spec.hardware_text) for spec in self.specs]
            words = [f"{device_map} · {quantization} on {hardware}" for device_map, quantization, hardware in cells]
            return View(render("widgets/matrix_offer", says=says, rows=cells), "\n".join([says, *words]))
        rows = [dict(stored.get(spec) or blank_row(spec, "not_run", "Not run yet.")) for spec in self.specs]
        says = f"{len(stored)} of {len(rows)} rows are in {self.results}."
        return summary.overview(frame_of(rows)) + View(render("said", words=says, look="soft"), says)

    def build(self) -> Widget:
        from ipywidgets import IntProgress, Layout, VBox

        self._form = Form(self.specs, self.results)
        self._price, self._go = button("Price", self._press_price), button("Run", self._press_run, primary=True)
        self._stop = button("Cancel", self._press_cancel)
        self._bar = IntProgress(min=0, max=len(self.specs), layout=Layout(flex="1 1 10rem", width="auto"))
        self._status, self._seconds = html(), html()
        self._clock = Clock(self._show_seconds)
        self._list = RowList()
        self._built = True
        self._show_buttons(running=bool(self._busy()))
        self._show_rows()
        buttons = row(self._price, self._go, self._stop, self._bar, self._seconds)
        return VBox([self._form.widget, buttons, self._status, self._list.widget])

    def _press_run(self) -> None:
        if self._is_ready():
            self._list.shut()
            self.start()

    def _press_price(self) -> None:
        if self._is_ready():
            from diag.sweep.run import price

            specs, results = self.specs, self.results
            self._tell(f"Planning {len(specs)} rows, without reading a weight …", running=True)
            self._pricing = Background(lambda: price(specs, results), self._show_price)
            self._pricing.start()

    def _press_cancel(self) -> None:
        self._tell("Cancelling …" if self._is_running() else self._busy() or "Nothing is running.")
        self.cancel()

    def _is_ready(self) -> bool:
        """Reads the form and returns True; while something runs, or for wrong values, says so and returns False."""
        if busy := self._busy():
            self._tell(busy)
            return False
        try:
            self.specs, self.results = self._form.specs(), self._form.results
        except (DiagError, ValueError) as error:
            self._tell(error)
            return False
        return True

    def _busy(self) -> str:
        """What is going on, in a sentence; empty where nothing is."""
        if self._is_running():
            return "The matrix is running; press Cancel to stop it."
        if self._pricing is not None and self._pricing.is_alive():
            return "The price is still being planned; wait until it is there."
        return ""

    def _is_running(self) -> bool:
        return self._run is not None and self._run.is_alive()

    # These are called beside the notebook, in the thread of the run or of the price

    def _matrix(self) -> pd.DataFrame:
        from diag.sweep.run import matrix

        return matrix(self.specs, self.results, cancelled=self._cancelled.is_set, on_row=self._add, **self._options)

    def _show_price(self) -> None:
        assert self._pricing is not None
        found, error = self._pricing.value, self._pricing.error
        notes = () if found is None else (*found.hindrances, *found.refusals)
        self._tell(str(found) if error is None else error, running=False, notes=notes)

    def _add(self, found: dict[str, Any]) -> None:
        texts = [(one.model, one.device_map_text, one.quantization, one.hardware_text) for one in self.specs]
        facts = tuple(found[name] for name in ("model", "device_map", "quantization", "hardware"))
        with self._lock:
            self._rows[self.specs[texts.index(facts)]] = found
            self._show_rows()
            known = len(self._rows)
        self._tell(f"{known} of {len(self.specs)} rows")

    def _end(self) -> None:
        assert self._run is not None
        self._interrupts.end()
        done, words = len(self._rows), f"Done: {len(self._rows)} rows. Choose one for its placement and cause."
        if self._cancelled.is_set():
            words = f"Cancelled at {done} of {len(self.specs)} rows. They are kept; Run goes on from there."
        self._tell(words if self._run.error is None else self._run.error, running=False)

    def _tell(self, said: str | BaseException, running: bool | None = None, notes: Sequence[str] = ()) -> None:
        """Shows words or an error as the status; `running` says that something began or ended."""
        if self._built:
            self._status.value = failure(said) if isinstance(said, BaseException) else status(said, notes)
            if running is not None:
                self._show_buttons(running)

    def _show_seconds(self, seconds: int) -> None:
        """Beside the bar and apart from the status, which a screen reader would read out every second."""
        self._seconds.value = scoped("widgets/seconds", words=f"{seconds} s")

    def _show_buttons(self, running: bool) -> None:
        if running:
            self._seconds.value = ""
            self._clock.start()
        else:
            self._clock.stop()
        for one in (self._go, self._price):
            mark_usable(one, "something is running" if running else "")
        mark_usable(self._stop, "" if running else "nothing is running")

    def _show_rows(self) -> None:
        if not self._built:
            return
        with self._lock:
            several = len({spec.hardware_text for spec in self.specs}) > 1
            self._list.show(dict(self._rows), self.results, several)
            self._bar.max, self._bar.value = len(self.specs), len(self._rows)


def stored_rows(specs: Sequence[LoadSpec], results: str) -> Mapping[LoadSpec, Row]:
    """The rows that the results file holds for these specs; none where there is no such file, or it can't be read."""
    from diag.sweep.results.store import Store

    try:
        with Store(results, must_exist=True) as store:
            rows, keys = store.rows(), {spec: store.find(spec.to_json()) for spec in specs}
    except DiagError:
        return {}
    return {spec: rows[key] for spec, key in keys.items() if key is not None}
