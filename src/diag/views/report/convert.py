"""An executed notebook as one HTML file: the verdict first, what went wrong above it, code and log at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import nbformat
from nbconvert import HTMLExporter

from diag.values.exits import Exit
from diag.values.text import count_text
from diag.views.markup import View, escape, notice, page, tag
from diag.views.report import endings
from diag.views.report.execute import SILENT
from diag.views.report.verdict import VERDICT_MIME

_TO_GO_ON = (
    "give the notebook that papermill wrote from diag's report.ipynb; a notebook of your own needs a cell with "
    "summary.headline(frame, gate), as that one has."
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SHOWN = ("display_data", "execute_result", "error")


def to_html(nb: Any, title: str) -> str:
    """The page. `nb` says itself how its run ended, in `metadata.diag`; without that it is taken as finished."""
    ended = nb.metadata.get("diag", {}).get("ended", {})
    first = [cell for cell in nb.cells if _leads(cell) and _has_output(cell)]
    rest = [cell for cell in nb.cells if cell not in first and not _tags(cell) & {"notebook-only", "diag-banner"}]
    body = [cell for cell in rest if cell.cell_type == "markdown" or _has_output(cell)]
    arranged = nbformat.v4.new_notebook(cells=first + _without_empty_sections(body))
    exporter = HTMLExporter(raw_template=_template(), exclude_anchor_links=True)
    exporter.register_filter("plain", escape)
    exporter.register_filter("traceback", lambda text: escape(_COLOUR.sub("", text)))
    content, _ = exporter.from_notebook_node(arranged)
    return page(title, death_notice(ended).html + content + _appendix(nb))


def death_notice(ended: Mapping[str, Any]) -> View:
    """What a reader must know first when a run did not finish; nothing when it did."""
    if ended.get("how", "finished") == "finished":
        return View("", "")
    title = endings.title(ended)
    sentences = _sentences(ended)
    return View(notice("bad", title, map(escape, sentences)), "\n".join((title, *sentences)))


def _sentences(ended: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a run ended, why, what still holds, and how to go on."""
    if ended["how"] == SILENT:
        return (f"Why: {ended['why']}.", f"To go on: {_TO_GO_ON}")
    where = (
        f"It ended in cell {ended['cell']} of {ended['cells']}" if ended.get("cell") else "It ended before a cell ran"
    )
    line = f": {ended['line']}" if ended.get("line") else ""
    return (
        f"{where}{line}",
        f"Why: {ended.get('why', 'not known')}.",
        "Still valid: every row shown below, as each was stored when it finished. "
        "Combinations marked “not run” were not judged, and nothing below that cell of the notebook ran.",
        "To go on: run the same command again; finished rows are kept and only the missing ones are loaded.",
    )


def verdict_of(nb: Any) -> dict[str, Any] | None:
    """The verdict that the notebook's headline cell left beside its output; None where there is none."""
    for cell in reversed(nb.cells):
        for output in cell.get("outputs", []):
            found = output.get("data", {}).get(VERDICT_MIME)
            if isinstance(found, Mapping) and found.get("exit_code") in list(Exit) and "headline" in found:
                return dict(found)
    return None


def _template() -> str:
    return resources.files("diag.views.report").joinpath("report.html.j2").read_text(encoding="utf-8")


def _tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _leads(cell: Any) -> bool:
    return bool(_tags(cell) & {"headline", "diag-partial"})


def _has_output(cell: Any) -> bool:
    return any(output["output_type"] in _SHOWN for output in cell.get("outputs", []))


def _without_empty_sections(cells: list[Any]) -> list[Any]:
    """Drops prose that only announced an output which never came (a run that ended early)."""
    return [
        cell
        for position, cell in enumerate(cells)
        if cell.cell_type != "markdown" or any(later.cell_type == "code" for later in cells[position + 1 :])
    ]


def _appendix(nb: Any) -> str:
    """Code and printed lines of every code cell, folded away."""
    blocks = []
    for position, cell in enumerate(nb.cells, start=1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        printed = "".join(output["text"] for output in cell.get("outputs", []) if output["output_type"] == "stream")
        state = cell.metadata.get("papermill", {}).get("status", "")
        blocks.append(
            tag("p", escape(f"Cell {position}" + (f", {state}" if state else "")), class_="soft")
            + tag("pre", tag("code", escape(cell.source)), tabindex="0")
            + (tag("pre", escape(_COLOUR.sub("", printed)), tabindex="0") if printed.strip() else "")
        )
    summary = tag("summary", f"How this was made: {count_text(len(blocks), 'cell')} of code and what they printed")
    return tag("details", summary + "".join(blocks), class_="machinery")
