"""The registry of causes: it finds the files of this folder and asks each its questions. Standard library only.

A file holds `CAUSE`, the record, and the answers it has: `from_state(evidence)` (what a model shows at rest),
`from_error(evidence)` (what a live exception adds), `from_text(trace)` (points for what a text says),
`behind(finding, evidence)` (whether it stands behind what was found first), `fixes(finding, situation)` (safest first).
No other file lists causes. To write a new one, read `diag/diagnosis/evidence/__init__.py` and one neighbour.

>>> get("offload-notice").severity
'info'
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diag.diagnosis.cause import HEADLINE, Cause, Fixes, Found, Points
from diag.diagnosis.evidence import Evidence, Trace
from diag.diagnosis.situation import Situation
from diag.errors import SpecError, listed
from diag.values.finding import Finding

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CauseFile:
    """One file of this folder: the record and the questions it answers (None: it has no answer)."""

    cause: Cause
    from_state: Callable[[Evidence], Found] | None = None
    from_error: Callable[[Evidence], Found] | None = None
    from_text: Callable[[Trace], Points] | None = None
    behind: Callable[[Finding, Evidence], Finding | None] | None = None
    fixes: Callable[[Finding, Situation], Fixes] | None = None


def _read(name: str) -> CauseFile:
    module = importlib.import_module(f"{__name__}.{name}")
    questions = ("from_state", "from_error", "from_text", "behind", "fixes")
    return CauseFile(module.CAUSE, **{question: getattr(module, question, None) for question in questions})


_FOUND = [_read(found.name) for found in pkgutil.iter_modules(__path__)]
FILES: tuple[CauseFile, ...] = tuple(sorted(_FOUND, key=lambda one: (one.cause.rank, one.cause.id)))
CATALOGUE: dict[str, CauseFile] = {one.cause.id: one for one in FILES}


def ids() -> tuple[str, ...]:
    """All cause ids: what the person did, then the state it left, then the symptom."""
    return tuple(CATALOGUE)


def get(cause: str) -> Cause:
    """The record of one cause. Raises SpecError that names the nearest id for one that does not exist."""
    if cause in CATALOGUE:
        return CATALOGUE[cause].cause
    close = difflib.get_close_matches(cause, CATALOGUE, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`diag causes` lists them."
    raise SpecError(f"{cause!r} is not a cause.", why=f"causes are:{listed(cause, CATALOGUE)}", next_step=hint)


def describe() -> pd.DataFrame:
    """One row per cause: id, title, severity, fix, advice to avoid, where it can be shown, cases; a DataFrame."""
    import pandas as pd

    causes = [one.cause for one in FILES]
    rows = [(c.id, c.title, c.severity, c.fix, " ".join(c.avoid), c.shown_on, len(c.cases)) for c in causes]
    return pd.DataFrame(rows, columns=["cause", "title", "severity", "fix", "avoid", "shown_on", "cases"])


def by_symptom() -> dict[str, list[str]]:
    """Each text in which causes show themselves, with their ids; the text that most causes share comes first."""
    found: dict[str, list[str]] = {}
    for cause in (one.cause for one in FILES):
        for text in (*cause.seen_as, *cause.shows_as):
            found.setdefault(text, []).append(cause.id)
    return dict(sorted(found.items(), key=lambda item: (item[0] != HEADLINE, -len(item[1]))))


def as_markdown() -> str:
    """The catalogue as a page: from what is seen to its causes; for each how to tell it, its fix, what to avoid."""
    said = "Written from the records of the causes (`diag causes`). `diag explain` decides which of them fits a text."
    parts = ["# Troubleshooting", "", said, "", "| What you see | What it can be |", "|---|---|"]
    raised = {text for one in FILES for text in one.cause.seen_as}
    for text, behind in by_symptom().items():
        quoted = f"`` {text} ``" if "`" in text else f"`{text}`"
        links = " · ".join(f"[{cause}](#{cause})" for cause in behind)
        parts.append(f"| {quoted if text in raised else text} | {links} |")
    for cause in (one.cause for one in FILES):
        parts += ["", f'<a id="{cause.id}"></a>', "", f"## {cause.title}", ""]
        parts += [f"`{cause.id}` · {cause.explanation}", ""]
        parts += [f"- **Tell it by:** {cause.check}", f"- **Fix:** {cause.fix}"]
        parts += [f"- **Avoid:** {advice}" for advice in cause.avoid]
    return "\n".join(parts) + "\n"
