"""Collects what libraries warn about, so that it can be shown beside the result instead of scrolling by."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

from diag.machine.audience import somebody_watches

_LOGGERS = tuple(map(logging.getLogger, ("transformers", "accelerate", "bitsandbytes", "peft", "py.warnings")))
# Planning for hardware that is not there makes accelerate say this for every device it can't open.
_EXPECTED = "is not available, available devices are"
# accelerate writes a set into this one (dispatch_model in big_modeling.py, 1.15.0): its order changes with the process,
# and two runs would give two texts.
_IN_ANY_ORDER = ("offloaded to the disk and cpu.", "offloaded to the cpu and disk.")


@contextlib.contextmanager
def collecting(notes: list[str], show_bars: bool = True) -> Iterator[None]:
    """Adds warnings of the libraries to `notes`, each text once, while the block runs.

    Without `show_bars`, and where nobody watches, transformers' bars are off as well, and afterwards as they were.
    """
    from transformers.utils import logging as bars

    def add(text: str) -> None:
        text = text.replace(*_IN_ANY_ORDER)
        if text not in notes and _EXPECTED not in text:
            notes.append(text)

    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: add(record.getMessage())  # type: ignore[method-assign]
    for logger in _LOGGERS:
        logger.addHandler(handler)
    had_bars = bars.is_progress_bar_enabled()
    if not show_bars or not somebody_watches():
        bars.disable_progress_bar()
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            for logger in _LOGGERS:
                logger.removeHandler(handler)
            for warning in caught:
                add(str(warning.message))
            if had_bars:
                bars.enable_progress_bar()
