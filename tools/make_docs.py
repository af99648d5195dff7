"""Executed copies of the walkthrough for readers on the web: `python tools/make_docs.py [FOLDER] [NAME …]`.

A copy holds the outputs that a page can show: no widget state (GitHub does not render a notebook with
`metadata.widgets`), no progress bars, no paths of the machine that made it. `--causes` writes
docs/troubleshooting.md from the records of the causes instead; `make docs-causes` calls it.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from diag.diagnosis import causes
from diag.views.files import write_notebook
from diag.views.markup import render
from diag.views.report.execute import run_notebook
from diag.views.report.notebooks import find_notebook

ROOT = Path(__file__).resolve().parents[1]
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SHOWN = ("text/html", "text/plain", "text/markdown", "image/png", "image/svg+xml")
_SCRATCH = re.compile(r"/tmp/(diag-[a-z]+)-[a-z0-9_]{8}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the named notebooks (all numbered ones) and writes their copies; 1 where one of them failed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--causes"]:
        write_causes(ROOT / "docs" / "troubleshooting.md")
        return 0
    folder = Path(arguments[0]) if arguments else Path("docs")
    names = arguments[1:] or [path.name for path in walkthrough()]
    failed = [name for name in names if not make_copy(find_notebook(name), folder / name)]
    for name in failed:
        print(f"{name} did not run to its end; its copy was not written.", file=sys.stderr)
    return 1 if failed else 0


def write_causes(page: Path) -> None:
    """The page on the causes, from their records."""
    page.write_text(causes.as_markdown(), encoding="utf-8")


def walkthrough() -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted(find_notebook("00_start_here.ipynb").parent.glob("[0-9][0-9]_*.ipynb"))


def make_copy(source: Path, target: Path) -> bool:
    """Runs `source` in an empty folder and writes its copy to `target`; False, and nothing written, where it failed."""
    source, target = source.resolve(), target.resolve()
    with tempfile.TemporaryDirectory(prefix="diag-docs-") as scratch, contextlib.chdir(scratch):
        run = run_notebook(source, Path(scratch) / source.name, {})
    if not run.ended.ok:
        return False
    write_notebook(target, readable(run.nb, nbformat.read(source, as_version=4)))
    return True


def readable(executed: Any, source: Any) -> Any:
    """The source notebook with the outputs that a page can show; pure."""
    made = nbformat.from_dict(source)
    sources = [cell for cell in made.cells if cell.cell_type == "code"]
    ran = [cell for cell in executed.cells if cell.cell_type == "code" and "injected-parameters" not in _tags(cell)]
    styled = False
    for count, (cell, done) in enumerate(zip(sources, ran, strict=True), start=1):
        cell.outputs = [output for output in map(_readable, done.outputs) if output is not None]
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            styled = _style_once(output, styled)
    return made


def _readable(output: Any) -> Any:
    """One output without what a page can't show; None where nothing is left."""
    if output.output_type == "stream":
        return None if output.name == "stderr" else _without_paths(output)
    data = output.get("data", {})
    if _WIDGET in data and "text/html" not in data:
        return None
    output = nbformat.from_dict({**output, "metadata": {}})
    if data:
        output.data = {mime: value for mime, value in data.items() if mime in _SHOWN}
    return _without_paths(output)


def _style_once(output: Any, styled: bool) -> bool:
    """The style sheet stays with the first output that brings it."""
    html, style = output.get("data", {}).get("text/html", ""), render("style")
    if style in html and styled:
        output.data["text/html"] = html.replace(style, "")
    return styled or style in html


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return nbformat.from_dict({key: _without_paths(item) for key, item in value.items()})
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return _shorter(value) if isinstance(value, str) else value


def _shorter(text: str) -> str:
    for path, name in _places():
        text = text.replace(path, name)
    return _SCRATCH.sub(r"/tmp/\1", text)


def _places() -> Iterable[tuple[str, str]]:
    """Where this machine keeps the environment, the checkout and its scratch files, the longest first."""
    places = {sys.prefix: ".venv", str(ROOT): ".", tempfile.gettempdir(): "/tmp"}
    return sorted(places.items(), key=lambda item: -len(item[0]))


def _tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


if __name__ == "__main__":
    sys.exit(main())
