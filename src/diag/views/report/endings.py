"""What the end of a run means: its exit code and its first line. A gate that failed is a run that finished."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diag.errors import DiagError, SpecError
from diag.values.exits import Exit
from diag.views.report.execute import ERROR, FINISHED, SILENT, TIMEOUT, Ending

GATE_TAG = "gate"
_TITLES = {
    "error": "This report is incomplete: one of its cells failed",
    "died": "This report is incomplete: the kernel died while it was being made",
    "timeout": "This report is incomplete: its time was up",
    "interrupted": "This report is incomplete: it was interrupted",
    SILENT: "Could not judge: the notebook ran to its end, and there is no verdict of diag in it",
}


def settled(ended: Ending) -> Ending:
    """The same end, and for a gate that failed, which is the last step after everything is written, a finished run."""
    failed = ended.how == ERROR and _error_name(ended.why) == "GateFailed"
    return replace(ended, how=FINISHED) if failed else ended


def exit_code(ended: Ending, verdict: Mapping[str, Any] | None) -> Exit:
    """The exit code of a run that ended so, with this verdict beside its headline."""
    if ended.ok:
        return Exit(verdict["exit_code"]) if verdict else Exit.AS_EXPECTED
    return _meaning(ended.how, ended.why)


def title(ended: Mapping[str, Any]) -> str:
    """The first line of a report whose run did not finish; `ended` as `Ending.to_json` gives it."""
    how, why = str(ended.get("how")), str(ended.get("why") or "")
    if how != ERROR:
        return _TITLES.get(how, "This report is incomplete")
    meaning = _meaning(how, why)
    said = why.partition(":")[2].strip().splitlines() or [why]
    if meaning is Exit.WRONG_USAGE:
        return f"Wrong usage: {said[0]}".rstrip(".")
    if meaning is Exit.NOT_JUDGED:
        return f"Could not judge: {said[0]}".rstrip(".")
    return _TITLES[ERROR]


def _meaning(how: str, why: str) -> Exit:
    if how != ERROR:  # at the deadline the matrix, too, stops and says that it could not judge
        return Exit.NOT_JUDGED if how in (TIMEOUT, SILENT) else Exit.DIED
    name = _error_name(why)
    if name in _names(SpecError):
        return Exit.WRONG_USAGE
    return Exit.NOT_JUDGED if name in _no_access() | _names(DiagError) else Exit.DIED


def _error_name(why: str) -> str:
    return why.partition(":")[0].strip()


def _no_access() -> frozenset[str]:
    from diag.sweep.results.rows import NO_ACCESS  # imports torch

    return NO_ACCESS


def _names(error: type[Exception]) -> set[str]:
    """The names of a class of errors and of those below it, where they have been imported."""
    from diag.views.report import notebooks  # noqa: F401 - its NotebookError is one of them

    return {error.__name__}.union(*map(_names, error.__subclasses__()))
