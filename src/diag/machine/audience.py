"""Is somebody watching this process? Bars and widgets are drawn for people, and for nobody else."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

import psutil

# A notebook server or an editor in the command line of the process that started the kernel.
_FRONT_ENDS = re.compile(
    r"(?i)jupyter[-_ ]?(lab|notebook|server|hub|labhub)\b|jupyterlab|nbclassic|voila|vscode|code-server|positron"
)


def has_front_end() -> bool:
    """True in a kernel that a notebook server or an editor started, where somebody can click. A kernel that papermill
    or nbconvert started has none: a widget there would be a dead picture in the report, and pull scripts from the
    network when it is opened. `DIAG_WIDGETS=1` or `0` decides it for front ends that are not recognised."""
    forced = os.environ.get("DIAG_WIDGETS", "")
    if forced in ("0", "1"):
        return forced == "1"
    if "ipykernel" not in sys.modules:
        return False
    try:
        starter = psutil.Process().parent()
        return starter is not None and _FRONT_ENDS.search(" ".join(starter.cmdline())) is not None
    except psutil.Error:
        return False


def somebody_watches() -> bool:
    """True in a terminal, and in a kernel with a front end."""
    return has_front_end() if "ipykernel" in sys.modules else sys.stderr.isatty()


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Switches transformers' loading bars off, and back to what they were. In a notebook they are widgets, which
    redirecting stderr does not catch."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
