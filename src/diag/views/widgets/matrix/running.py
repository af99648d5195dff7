"""A matrix beside the notebook: started, cancelled and waited for from other cells; its rows survive all of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from diag.values.spec import LoadSpec
from diag.views.widgets.interrupts import Interrupts


class Run:
    """One call of `diag.matrix` in a thread. `frame` is its result, `error` what it raised; one of them at the end.

    `on_row` and `on_end` are called in that thread. Interrupting the kernel cancels it.
    """

    def __init__(
        self,
        specs: Sequence[LoadSpec],
        results: str | None,
        options: dict[str, Any],
        on_row: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
    ) -> None:
        self.specs, self.results, self.options = list(specs), results, options
        self.frame: pd.DataFrame | None = None
        self.error: BaseException | None = None
        self._on_row, self._on_end = on_row, on_end
        self._cancelled = threading.Event()
        self._interrupts = Interrupts(self.cancel)
        self._thread = threading.Thread(target=self._run, name="diag-matrix", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def start(self) -> None:
        self._interrupts.start()
        self._thread.start()

    def cancel(self) -> None:
        self._cancelled.set()

    def wait(self, timeout: float | None = None) -> None:
        """Waits for the end; a KeyboardInterrupt cancels the run, waits for it to stop, and is raised again."""
        try:
            self._thread.join(timeout)
        except KeyboardInterrupt:
            self.cancel()
            self._thread.join(10)
            raise

    def _run(self) -> None:
        import diag

        try:
            self.frame = diag.matrix(self.specs, self.results, progress=False, cancelled=self._cancelled.is_set,
                                     on_row=self._on_row, **self.options)  # fmt: skip
        except BaseException as error:
            self.error = error
        finally:
            self._interrupts.end()
            self._on_end()


class Task:
    """A function called once in a thread: `on_end` gets its value, or the exception it raised."""

    def __init__(self, function: Callable[[], Any], on_end: Callable[[Any], None]) -> None:
        self._function, self._on_end = function, on_end
        self._thread = threading.Thread(target=self._run, name="diag-task", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            value: Any = self._function()
        except Exception as error:
            value = error
        self._on_end(value)


class Clock:
    """Calls `tick` with the seconds since `start`, once a second until `stop`."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        self._tick = tick
        self._stopped = threading.Event()
        self._stopped.set()

    def start(self) -> None:
        self.stop()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, args=(self._stopped,), name="diag-clock", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self, stopped: threading.Event) -> None:
        began = time.monotonic()
        while not stopped.wait(1.0):
            self._tick(round(time.monotonic() - began))
