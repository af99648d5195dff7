"""Notebooks: where diag's are, which parameters one takes and was given, and whose kernel runs it."""

import ast
import difflib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil
from nbformat import NotebookNode

from diag.errors import CouldNotJudgeError, SpecError

REPORT = "report.ipynb"


class NotebookError(SpecError):
    """A notebook that is not there or can't be read, or a parameter that it does not have."""


def find_notebook(name: str | Path) -> Path:
    """The path of a notebook: as given, else diag's own of that name.

    Diag's notebooks are in `notebooks/` of a checkout; an installed package has them as data files under
    `share/diag/notebooks`, wherever its installer put them. Raises NotebookError that lists where it looked.
    """
    own, source = Path(name).name, Path(__file__).resolve().parents[3]
    try:
        files = metadata.files("diag") or []
    except metadata.PackageNotFoundError:
        files = []
    installed = [Path(str(file.locate())).resolve() for file in files if file.match(f"share/diag/notebooks/{own}")]
    checkout = [source.parent / "notebooks" / own] if source.name == "src" else []
    tried = [Path(name), *checkout, *installed]
    for path in tried:
        if path.is_file():
            return path
    raise NotebookError(
        f"there is no notebook {str(name)!r}.",
        why=f"looked for {', '.join(str(path) for path in tried)}.",
        next_step="give a path to a notebook, or install diag again: its notebooks come with it.",
    )


def declared_parameters(notebook: Path) -> set[str]:
    """The names assigned in the notebook's cell tagged `parameters`."""
    import papermill

    try:
        return set(papermill.inspect_notebook(str(notebook)))
    except (ValueError, KeyError, AttributeError) as e:
        hint = "open it in JupyterLab and save it again."
        raise NotebookError(f"{notebook} can't be read as a notebook.", why=str(e), next_step=hint) from e


def check_names(given: Iterable[str], valid: Iterable[str], notebook: str = "this notebook") -> None:
    """Raises NotebookError that lists the valid names if one was given that is no parameter."""
    valid = sorted(valid)
    for name in given:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "use one of those."
            why = f"its parameters are: {', '.join(valid) or 'none'}."
            raise NotebookError(f"{notebook} has no parameter {name!r}.", why=why, next_step=hint)


def injected_names() -> list[str]:
    """The names that papermill's own cell assigned in this kernel; it marks that cell with a comment."""
    if "IPython" not in sys.modules:
        return []
    shell = sys.modules["IPython"].get_ipython()
    history = list(shell.user_ns.get("In", ())) if shell is not None else []
    cells = [source for source in history if source.startswith("# Parameters\n")]
    return [name for name, _ in assignments(cells[-1])] if cells else []


def parameters_of(nb: NotebookNode) -> dict[str, object]:
    """The values of the parameters cell, and over them those that papermill put in. Literals only; nothing is run."""
    found: dict[str, object] = {}
    for tag in ("parameters", "injected-parameters"):
        cells = (cell for cell in nb.cells if cell.cell_type == "code" and tag in cell.metadata.get("tags", []))
        for name, value in (pair for cell in cells for pair in assignments(cell.source)):
            with suppress(ValueError):
                found[name] = ast.literal_eval(value)
    return found


def assignments(source: str) -> Iterator[tuple[str, ast.expr]]:
    """Each name that a cell assigns, with the expression; nothing for a cell that is not valid Python."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return
    for node in body:
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))


def check_kernel() -> None:
    """Raises CouldNotJudgeError where the papermill that runs this notebook belongs to another environment."""
    if "IPython" not in sys.modules:
        return
    try:
        starter = psutil.Process().parent()
        command, path = (starter.cmdline(), starter.environ().get("PATH", "")) if starter is not None else ([], "")
    except psutil.Error:  # something else started this kernel, or it can't be told
        return
    theirs = environment_of(command[0], path) if any("papermill" in part for part in command) else None
    if theirs is not None and os.path.realpath(theirs) != os.path.realpath(sys.prefix):
        raise CouldNotJudgeError(
            "this kernel belongs to another environment than the papermill that runs it.",
            why=f"papermill is in {theirs!r}, and the kernel in {sys.prefix!r}: its versions would be judged.",
            next_step="name the kernel with papermill -k, or make one there: python -m ipykernel install --sys-prefix.",
        )


def environment_of(program: str, path: str) -> str | None:
    """The prefix of the environment a Python program belongs to: the folder above its own; None if it is not found."""
    found = program if os.path.isabs(program) else shutil.which(program, path=path)
    if found is None:
        return None
    prefix = Path(found).parent.parent
    return str(prefix) if (prefix / "pyvenv.cfg").exists() or (prefix / "conda-meta").exists() else None
