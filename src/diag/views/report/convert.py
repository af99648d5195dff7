"""An executed notebook as one HTML file: the verdict first, what went wrong above it, code and log at the end."""

import base64
from collections.abc import Mapping

from markupsafe import Markup
from nbconvert.filters.ansi import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from diag.values.exits import Exit
from diag.values.text import count_text
from diag.views.markup import render
from diag.views.report.ending import Ending
from diag.views.report.verdict import VERDICT_MIME

_SHOWN = ("display_data", "execute_result", "error")
# Of the forms of one output the first is shown, in JupyterLab's order. The first two need scripts: they leave a gap.
_FORMS = (
    "application/vnd.jupyter.widget-view+json application/javascript text/html text/markdown image/svg+xml text/latex "
    "image/png image/jpeg text/plain".split()
)


def to_html(nb: NotebookNode, title: str) -> str:
    """The page. `nb` says itself how its run ended, in `metadata.diag`; without that it is taken as finished."""
    first: list[NotebookNode] = []
    rest: list[NotebookNode] = []
    for cell in nb.cells:
        tags = set(cell.metadata.get("tags", []))
        has_output = any(output["output_type"] in _SHOWN for output in cell.get("outputs", []))
        if has_output and tags & {"headline", "diag-partial"}:
            first.append(cell)
        elif (has_output or cell.cell_type == "markdown") and not tags & {"notebook-only", "diag-banner"}:
            rest.append(cell)
    while rest and rest[-1].cell_type == "markdown":  # it only announced what never came: the run ended early
        rest.pop()
    code = ((number, cell) for number, cell in enumerate(nb.cells, start=1) if cell.cell_type == "code")
    machinery = [_code_block(number, cell) for number, cell in code if cell.source.strip()]
    counted = count_text(len(machinery), "cell")
    ending = Ending.from_json(nb.metadata.get("diag", {}).get("ended", {}))
    cells = [_drawn(cell) for cell in first + rest]
    content = render("report/body", ending=ending, cells=cells, machinery=machinery, cell_count=counted)
    return str(render("page", title=title, content=content))


def kept_verdict(nb: NotebookNode) -> dict[str, object] | None:
    """The verdict that the notebook's headline cell left beside its output; None where there is none."""
    for cell in reversed(nb.cells):
        for output in cell.get("outputs", []):
            found = output.get("data", {}).get(VERDICT_MIME)
            if isinstance(found, Mapping) and found.get("exit_code") in list(Exit) and "headline" in found:
                return dict(found)
    return None


def _drawn(cell: NotebookNode) -> list[tuple[str, str]]:
    """What is shown of a cell: each part as its form, a mime type or `error`, and what the template puts there.

    HTML of a notebook's own outputs and prose is taken as it is, the rest as text.
    """
    if cell.cell_type == "markdown":
        return [("text/markdown", _prose(cell.source, cell.get("attachments")))]
    parts: list[tuple[str, str]] = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "error":
            parts.append(("error", strip_ansi("\n".join(output["traceback"]))))
        elif output["output_type"] in _SHOWN:
            form = next((form for form in _FORMS if form in output["data"]), "")
            data = output["data"].get(form, "")
            if form == "text/html":
                data = Markup(data.removeprefix(render("style")))  # the page has the sheet once
            elif form == "text/markdown":
                data = _prose(data)
            elif form == "image/svg+xml":
                data = base64.b64encode(data.encode()).decode()
            parts.append((form, data))
    return parts


def _prose(source: str, attachments: dict[str, dict[str, str]] | None = None) -> Markup:
    renderer = IPythonRenderer(escape=False, exclude_anchor_links=True, attachments=attachments)
    return Markup(MarkdownWithMath(renderer=renderer).render(source))


def _code_block(number: int, cell: NotebookNode) -> dict[str, str]:
    """A cell's code and printed lines, which the page has folded away."""
    printed = "".join(output["text"] for output in cell.get("outputs", []) if output["output_type"] == "stream")
    state = cell.metadata.get("papermill", {}).get("status", "")
    title = f"Cell {number}, {state}" if state else f"Cell {number}"
    return {"title": title, "source": cell.source, "printed": strip_ansi(printed).strip("\n")}
