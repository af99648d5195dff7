"""Small notebooks that end in every way a notebook can, made where a test needs them."""

from __future__ import annotations

from pathlib import Path

import nbformat

KILL = "import os\nprint('before', flush=True)\nos.kill(os.getpid(), 9)"


def notebook(folder: Path, *sources: str, parameters: str = "model = 'none'", name: str = "made.ipynb") -> Path:
    """A notebook with a parameters cell and these code cells."""
    cells = [nbformat.v4.new_code_cell(source) for source in (parameters, *sources)]
    cells[0].metadata["tags"] = ["parameters"]
    path = folder / name
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def with_cell(source: Path, folder: Path, code: str, *, before: str) -> Path:
    """A copy of a notebook with one more code cell in front of the first whose source holds `before`."""
    nb = nbformat.read(source, as_version=4)
    position = next(i for i, cell in enumerate(nb.cells) if before in cell.source)
    nb.cells.insert(position, nbformat.v4.new_code_cell(code))
    path = folder / source.name
    nbformat.write(nb, path)
    return path
