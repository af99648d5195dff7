"""report_from(): the truthful page of a notebook that somebody else's papermill ran, or that died on the way."""

import ast
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from diag.errors import DiagError
from diag.values.spec import LoadSpec
from diag.values.text import first_line
from diag.views.files import redacted
from diag.views.report import gating
from diag.views.report.convert import kept_verdict
from diag.views.report.execute import DIED, ERROR, FINISHED, SILENT, Ending, Run, truthful
from diag.views.report.leftovers import window_of
from diag.views.report.notebooks import NotebookError
from diag.views.report.report import ReportResult, finish


def report_from(
    notebook: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
) -> ReportResult:
    """Makes page, JSON, Markdown and JUnit of an executed notebook; loads nothing, and believes no stamp of papermill.

    `out` defaults to the notebook's name with `.html`. A copy of the notebook with true states goes beside it, unless
    that is the notebook itself, which is left alone. The rows come from `results`, by default the file that the
    notebook names, looked for from the current folder and from the notebook's; only those count that were saved or
    used while the notebook ran. Raises NotebookError for a file that is
    no notebook, or that was never run; one without a verdict of diag in it could not be judged.
    """
    source = Path(notebook)
    nb = _read(source)
    path = Path(out) if out is not None else source.with_suffix(".html")
    ended = how_it_ended(nb)
    if ended.ok and kept_verdict(nb) is None:
        ended = Ending(SILENT, cells=ended.cells, why="none of its cells showed a headline of diag")
    specs, named = _asked(nb)
    stored = Path(results) if results is not None else _found(named, source)
    when = window_of(nb)
    nb = truthful(nb, ended, source.name, path.with_suffix(".ipynb").name)
    return finish(Run(nb, ended), specs, path, stored, when, source)


def how_it_ended(nb: Any) -> Ending:
    """From the outputs alone: an error in a cell, or cells that were never begun, or the end.

    A kernel that dies leaves no error, and papermill marks every cell as completed. What shows it is that the cells
    after it have no execution count; where it was the last, that it has no output though it always gives one.
    """
    code = [(position, cell) for position, cell in enumerate(nb.cells, start=1) if _is_code(cell)]
    begun = [(position, cell) for position, cell in code if cell.get("execution_count") is not None]
    if not begun:
        raise NotebookError("this notebook was never run: no cell has been executed.",
                            next_step="run it with papermill first, or let diag report run it.")  # fmt: skip
    for position, cell in code:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                why = f"{output.get('ename')}: {output.get('evalue')}".strip()
                return Ending(ERROR, position, len(nb.cells), first_line(cell.source), str(redacted(why)))
    last, cell = begun[-1]
    never = [position for position, _ in code if position > last]
    if never or (gating_cell(cell) and not cell.get("outputs")):
        why = "the run stopped there without an error: the kernel died, or the run was killed"
        return Ending(DIED, last, len(nb.cells), first_line(cell.source), why)
    return Ending(FINISHED, cells=len(nb.cells))


def gating_cell(cell: Any) -> bool:
    return "gate" in cell.metadata.get("tags", [])


def parameters_of(nb: Any) -> dict[str, Any]:
    """The values of the parameters cell, and over them those that papermill put in. Literals only; nothing is run."""
    found: dict[str, Any] = {}
    for tag in ("parameters", "injected-parameters"):
        for cell in nb.cells:
            if cell.cell_type == "code" and tag in cell.metadata.get("tags", []):
                found.update(_literals(cell.source))
    return found


def _literals(source: str) -> dict[str, Any]:
    found = {}
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return {}
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def _asked(nb: Any) -> tuple[Sequence[LoadSpec], str]:
    """What the notebook was asked to load; nothing where its parameters were wrong."""
    values = {name: value for name, value in parameters_of(nb).items() if name in gating.PARAMETERS}
    named = str(values.get("results") or "results.sqlite")
    try:
        return gating.asked_for({**values, "baseline": None, "write_baseline": None}).specs, named
    except (DiagError, KeyError):
        return (), named


def _found(named: str, source: Path) -> Path:
    return next((path for path in (Path(named), source.parent / named) if path.is_file()), Path(named))


def _read(source: Path) -> Any:
    """The notebook, sound enough to be looked at. Raises NotebookError."""
    advice = "give the notebook that papermill wrote."
    try:
        nb = nbformat.read(source, as_version=4)
    except Exception as e:  # a file of anybody's: nbformat raises whatever its contents make it trip over
        why = f"{type(e).__name__}: {e}"
        raise NotebookError(f"{str(source)!r} can't be read as a notebook.", why=why, next_step=advice) from e
    wrong = _unsound(nb)
    if wrong:
        raise NotebookError(f"{str(source)!r} is no sound notebook.", why=wrong, next_step=advice)
    return nb


def _unsound(nb: Any) -> str:
    """What keeps a parsed file from being looked at as a notebook; empty where nothing does."""
    if not isinstance(nb.get("metadata"), Mapping) or not isinstance(nb.get("cells"), list):
        return "it has no cells and metadata."
    for position, cell in enumerate(nb.cells, start=1):
        if not isinstance(cell, Mapping) or not all(
            isinstance(cell.get(name), str) for name in ("cell_type", "source")
        ):
            return f"cell {position} has no type and source."
        outputs = cell.get("outputs", [])
        sound = isinstance(outputs, list) and all(isinstance(one, Mapping) and "output_type" in one for one in outputs)
        if not sound or not isinstance(cell.get("metadata"), Mapping):
            return f"the outputs or the metadata of cell {position} are not what the format says."
    return ""


def _is_code(cell: Any) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())
