"""What people look at: the command line, the report, what notebooks show and what they click.

A notebook takes all it needs from here: `from diag.views import lessons, machine, plots, summary, widgets`. Whoever
reads the code starts with `markup.py`, which turns templates into HTML. Nothing below imports this room.
"""

from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """The modules for notebooks that lie in a folder of this room; notebooks of any age call them by these names."""
    if name == "lessons":
        from diag.views.notebook import lessons

        return lessons
    if name in ("gating", "summary"):
        from diag.views.report import gating, summary

        return gating if name == "gating" else summary
    if name == "service":
        from diag.reproduce import service

        return service
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
