"""Clicks that come too late: made while the one before was still at work, and heard by the kernel only afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from diag.views.widgets.interrupts import current_shell


class Clicks:
    """Notes how long the work of each click took, by the front end's clock, so that two clocks are never compared.

    A button is not disabled meanwhile: the front end would take the keyboard's focus from it.
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
        return None not in (sent, self._began) and (sent - self._began).total_seconds() < self._seconds  # type: ignore


def _sent_at() -> datetime | None:
    """When the front end sent the message that is handled now."""
    kernel: Any = getattr(current_shell(), "kernel", None)
    sent = {} if kernel is None else (kernel.get_parent() or {}).get("header", {})
    date = sent.get("date")
    return date if isinstance(date, datetime) else None
