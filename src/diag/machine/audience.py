"""Is somebody watching this process? Bars are drawn for people, and for nobody else."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

import psutil

_SERVERS = r"jupyter[-_ ]?(lab|notebook|server|hub)|jupyterlab|ipykernel_launcher.*vscode"


def somebody_watches() -> bool:
    """True in a terminal, and in a kernel that a notebook server started.

    A kernel that papermill or nbconvert started has no front end: a widget bar there would be a dead picture in the
    report, and pull scripts from the network when it is opened.
    """
    if "ipykernel" not in sys.modules:
        return sys.stderr.isatty()
    try:
        command = " ".join(psutil.Process().parent().cmdline())  # type: ignore[union-attr]
    except (psutil.Error, AttributeError):
        return False
    return re.search(_SERVERS, command) is not None


@contextlib.contextmanager
def bars_only_for_people() -> Iterator[None]:
    """Switches transformers' loading bars off while nobody watches, and back to what they were."""
    from transformers.utils import logging

    if somebody_watches() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
