"""Where diag's notebooks are, what parameters they take, and what may be handed to them."""

import difflib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from diag.errors import SpecError

REPORT = "report.ipynb"


class NotebookError(SpecError):
    """A notebook that is not there or can't be read, or a parameter that it does not have."""


def find_notebook(name: str | Path) -> Path:
    """The path of a notebook: as given, else diag's own of that name.

    Diag's notebooks are in `notebooks/` of a checkout; an installed package has them as data files under
    `share/diag/notebooks`, wherever its installer put them. Raises NotebookError that lists where it looked.
    """
    tried = [Path(name), *_checkout(Path(name).name), *_installed(Path(name).name)]
    for path in tried:
        if path.is_file():
            return path
    raise NotebookError(
        f"there is no notebook {str(name)!r}.",
        why=f"looked for {', '.join(str(path) for path in tried)}.",
        next_step="give a path to a notebook, or install diag again: its notebooks come with it.",
    )


def check_parameters(notebook: Path, values: Mapping[str, Any]) -> None:
    """Raises NotebookError that lists the valid names if `values` holds a name the notebook does not declare."""
    valid = sorted(declared_parameters(notebook))
    for name in values:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            raise NotebookError(
                f"{notebook.name} has no parameter {name!r}.",
                why=f"its parameters are: {', '.join(valid) or 'none'}.",
                next_step=f"did you mean {close[0]!r}?" if close else "use one of those.",
            )


def declared_parameters(notebook: Path) -> set[str]:
    """The names assigned in the notebook's cell tagged `parameters`."""
    import papermill

    try:
        return set(papermill.inspect_notebook(str(notebook)))
    except (ValueError, KeyError, AttributeError) as e:
        raise NotebookError(
            f"{notebook} can't be read as a notebook.", why=str(e), next_step="open it in JupyterLab and save it again."
        ) from e


def _checkout(name: str) -> list[Path]:
    source = Path(__file__).resolve().parents[3]
    return [source.parent / "notebooks" / name] if source.name == "src" else []


def _installed(name: str) -> list[Path]:
    try:
        files = metadata.files("diag") or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).resolve() for file in files if file.match(f"share/diag/notebooks/{name}")]
