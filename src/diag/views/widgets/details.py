"""One row of a matrix looked at closely: what happened, its cause, and its placement to explore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from diag.errors import DiagError
from diag.values.spec import LoadSpec
from diag.values.units import format_seconds, is_missing
from diag.views.markup import render
from diag.views.report.verdict import peaks_text
from diag.views.rows import simulated_text
from diag.views.shown import findings_view
from diag.views.widgets.choosing import Choice
from diag.views.widgets.explorer import PlacementExplorer
from diag.views.widgets.live import html, scoped
from diag.views.wording import cell_text, status_word

if TYPE_CHECKING:
    from ipywidgets import Widget

Row = Mapping[str, Any]  # one row of a matrix: MATRIX_COLUMNS by name


def row_line(found: Row) -> str:
    """A row in one line: verdict, seconds, peak, how much is offloaded or missing."""
    counts = ((found["n_offloaded"], "offloaded"), (found["n_missing"], "missing"))
    facts = [
        format_seconds(found["load_seconds"]),
        peaks_text(pd.Series(found)),
        *(f"{int(count)} {word}" for count, word in counts if not is_missing(count) and count),
    ]
    words = " · ".join(fact for fact in facts if fact)
    simulated = simulated_text(found["hardware"])
    return scoped("widgets/matrix_row", word=status_word(found["status"]), words=words, simulated=simulated)


def details_of(spec: LoadSpec, found: Row, results: str) -> tuple[Widget, ...]:
    """Widgets: what happened and why, the cause of an error, and the explorer of the stored placement."""
    word = status_word(found["status"])
    error = cell_text(found["error_text"]) and f"{cell_text(found['error_type'])}: {cell_text(found['error_text'])}"
    said = scoped(
        "widgets/matrix_details",
        title=f"{found['device_map']} · {found['quantization']} on {found['hardware']}: {word.text}",
        reason=cell_text(found["reason"]),
        answer=cell_text(found.get("answer")),
        error=error[:8000],
        cause=_cause_of(error) if error and found["status"] != "unsupported" else "",
    )
    from diag.sweep.run import placement_of

    try:
        explorer = PlacementExplorer(placement_of(results, spec), Choice()).build()
    except DiagError as problem:
        explorer = html(scoped("said", words=_why_no_placement(found, problem)))
    return html(said), explorer


def _cause_of(error: str) -> Markup:
    """What the catalogue knows of an error's text."""
    from diag.diagnosis.explain import explain_text

    known = explain_text(error)
    if known[0].is_unknown:
        return render("notice", tone="warn", title="No cause of the catalogue fits this text.", paragraphs=())
    return findings_view(known).html


def _why_no_placement(found: Row, problem: DiagError) -> str:
    if found["status"] == "unsupported":
        return "There is no placement to explore: the load was refused before it began."
    if is_missing(found["load_seconds"]):
        return "There is no placement to explore: the load did not finish."
    return f"The placement can't be read: {problem.what}"
