"""The front end's interrupt button for work that runs beside the kernel: it stops the run as it would stop a cell.

ipykernel ignores SIGINT while no cell runs, and gives it to the running cell otherwise. Both are covered here: a
handler while the kernel is idle, and a look at how each cell ended. Source: ipykernel 7.4.0 `kernelbase.py`,
`pre_handler_hook` and `post_handler_hook`.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

_EVERY = 0.2  # seconds between looks at the handler: a cell puts the old one back when it ends


class Interrupts:
    """While started, an interrupt of the kernel calls `stop`. Does nothing outside a kernel."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._shell = current_shell()
        self._loop: Any = getattr(getattr(self._shell, "kernel", None), "io_loop", None)
        self._on = False
        self._before: Any = None

    def start(self) -> None:
        if self._loop is None:
            return
        self._on = True
        self._shell.events.register("post_run_cell", self._after_cell)
        self._loop.add_callback(self._keep_handler)

    def end(self) -> None:
        if not self._on:
            return
        self._on = False
        self._shell.events.unregister("post_run_cell", self._after_cell)
        self._loop.add_callback(self._put_back)

    def _keep_handler(self) -> None:
        if not self._on or threading.current_thread() is not threading.main_thread():
            return
        current = signal.getsignal(signal.SIGINT)
        if current in (signal.SIG_IGN, signal.SIG_DFL, None):
            self._before = signal.signal(signal.SIGINT, self._handle)
        self._loop.call_later(_EVERY, self._keep_handler)

    def _put_back(self) -> None:
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, *_: Any) -> None:
        self._stop()

    def _after_cell(self, result: Any) -> None:
        if isinstance(getattr(result, "error_in_exec", None), KeyboardInterrupt):
            self._stop()


def current_shell() -> Any:
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None
