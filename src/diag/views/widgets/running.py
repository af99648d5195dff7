"""Work beside the notebook: a function in a thread, the kernel's interrupt as its end, a clock."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_EVERY = 0.2  # seconds between looks at the handler: a cell puts the old one back when it ends


class Background(threading.Thread, Generic[T]):
    """A function called once in a thread: `value` is what it returned, `error` what it raised; one of them at the end.

    `on_end` is called last, in that thread.
    """

    def __init__(self, function: Callable[[], T], on_end: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.value: T | None = None
        self.error: BaseException | None = None
        self._function, self._on_end = function, on_end

    def run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error
        finally:
            self._on_end()


class Interrupts:
    """While started, an interrupt of the kernel calls `stop`, as it would stop a cell. Does nothing outside a kernel.

    ipykernel ignores SIGINT while no cell runs, and gives it to the running cell otherwise. So there is a handler
    while the kernel is idle, and a look at how each cell ended. Source: ipykernel 7.4.0 `kernelbase.py`,
    `pre_handler_hook` and `post_handler_hook`.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        from IPython import get_ipython

        self._stop, self._shell, self._on = stop, get_ipython(), False
        self._loop: Any = getattr(getattr(self._shell, "kernel", None), "io_loop", None)
        self._before: Callable[..., Any] | int | None = None

    def start(self) -> None:
        if self._shell is not None and self._loop is not None:
            self._on = True
            self._shell.events.register("post_run_cell", self._after_cell)
            self._loop.add_callback(self._keep_handler)

    def end(self) -> None:
        if self._on and self._shell is not None:
            self._on = False
            self._shell.events.unregister("post_run_cell", self._after_cell)
            self._loop.add_callback(self._put_back)

    def _keep_handler(self) -> None:
        if not self._on or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):
            self._before = signal.signal(signal.SIGINT, self._handle)
        self._loop.call_later(_EVERY, self._keep_handler)

    def _put_back(self) -> None:
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, *_: object) -> None:
        self._stop()

    def _after_cell(self, result: object) -> None:
        if isinstance(getattr(result, "error_in_exec", None), KeyboardInterrupt):
            self._stop()


class Clock:
    """Calls `tick` with the seconds since `start`, once a second until `stop`."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        self._tick, self._stopped = tick, threading.Event()

    def start(self) -> None:
        self.stop()
        self._stopped = threading.Event()
        threading.Thread(target=self._work, args=(self._stopped,), name="diag-clock", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _work(self, stopped: threading.Event) -> None:
        began = time.monotonic()
        while not stopped.wait(1.0):
            self._tick(round(time.monotonic() - began))
