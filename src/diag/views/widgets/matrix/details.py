"""One row of a matrix looked at closely: what happened, its cause, and its placement to explore."""

from __future__ import annotations

from typing import Any

import pandas as pd

import diag
from diag.errors import DiagError
from diag.values.spec import LoadSpec
from diag.values.units import format_seconds, is_missing
from diag.views.markup import escape, notice, tag
from diag.views.plots import status
from diag.views.report.verdict import peaks_text
from diag.views.rows import badge
from diag.views.widgets.explorer import PlacementExplorer
from diag.views.widgets.live import html
from diag.views.widgets.matrix.choosing import Choice
from diag.views.wording import cell_text, status_word


def row_line(found: dict[str, Any]) -> str:
    """A row in one line: verdict, seconds, peak, how much is offloaded or missing."""
    facts = [
        format_seconds(found["load_seconds"]),
        peaks_text(pd.Series(found)),
        _count(found, "n_offloaded", "offloaded"),
        _count(found, "n_missing", "missing"),
    ]
    words = " · ".join(fact for fact in facts if fact)
    return f"{status(found['status'])} {tag('span', escape(words), class_='soft')}{badge(found['hardware'])}"


def details_of(found: dict[str, Any], spec: LoadSpec | None, results: str) -> tuple[Any, ...]:
    """Widgets: what happened and why, the cause of an error, and the explorer of the stored placement."""
    word = status_word(found["status"])
    title = f"{found['device_map']} · {found['quantization']} on {found['hardware']}: {word.text}"
    reason = tag("p", escape(cell_text(found["reason"])))
    parts = [html(tag("h3", escape(title)) + reason + _answer(found) + _error(found))]
    if spec is None:
        return (*parts,)
    try:
        parts.append(PlacementExplorer(diag.placement_of(results, spec), Choice()).build())
    except DiagError as error:
        parts.append(html(tag("p", escape(_why_no_placement(found, error)))))
    return (*parts,)


def _why_no_placement(found: dict[str, Any], error: DiagError) -> str:
    if found["status"] == "unsupported":
        return "There is no placement to explore: the load was refused before it began."
    if is_missing(found["load_seconds"]):
        return "There is no placement to explore: the load did not finish."
    return f"The placement can't be read: {error.what}"


def _answer(found: dict[str, Any]) -> str:
    said = cell_text(found.get("answer"))
    return tag("p", "The model said " + tag("q", escape(said)) + ".") if said else ""


def _error(found: dict[str, Any]) -> str:
    """The error's text and the catalogue's explanation of it."""
    from diag.diagnosis.explain import explain_text
    from diag.views.shown import findings_view

    text = cell_text(found["error_text"])
    if not text:
        return ""
    whole = f"{cell_text(found['error_type'])}: {text}"
    shown = tag("details", tag("summary", "the error's text") + tag("pre", escape(whole[:8000]), tabindex="0"))
    if found["status"] == "unsupported":
        return shown
    known = explain_text(whole)
    if known[0].cause == "unknown":
        return shown + notice("warn", "No cause of the catalogue fits this text.", [])
    return shown + findings_view(known).html


def _count(found: dict[str, Any], name: str, word: str) -> str:
    return "" if is_missing(found[name]) or not found[name] else f"{int(found[name])} {word}"
