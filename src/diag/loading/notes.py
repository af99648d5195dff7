"""Collects what libraries warn about, so that it can be shown beside the result instead of scrolling by."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = ("transformers", "accelerate", "bitsandbytes", "peft", "py.warnings")


@contextlib.contextmanager
def collecting(notes: list[str]) -> Iterator[None]:
    """Adds warnings of the libraries to `notes`, each text once, while the block runs."""
    handler = _Notes(notes)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
            for warning in caught:
                handler.add(str(warning.message))


class _Notes(logging.Handler):
    # Planning for hardware that is not there makes accelerate say this for every device it can't open.
    _EXPECTED = ("is not available, available devices are",)
    # accelerate writes a set into this one (dispatch_model in big_modeling.py, 1.15.0): its order changes with the
    # process, and two runs would give two texts.
    _IN_ANY_ORDER = ("offloaded to the disk and cpu.", "offloaded to the cpu and disk.")

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record.getMessage())

    def add(self, text: str) -> None:
        text = text.replace(*self._IN_ANY_ORDER)
        if text not in self._notes and not any(part in text for part in self._EXPECTED):
            self._notes.append(text)
