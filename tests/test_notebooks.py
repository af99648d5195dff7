"""The notebooks are the product's face: they tell and call, hold no logic, and run from top to bottom as they are."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

import nbformat
import papermill
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
WITH_PARAMETERS = {"02_load_matrix.ipynb", "report.ipynb"}
LINES = 15

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def lines_of(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def test_the_walkthrough_and_the_report_are_there():
    assert {"00_start_here.ipynb", "02_load_matrix.ipynb", "report.ipynb"} <= {path.name for path in NOTEBOOKS}


@every_notebook
def test_it_is_stored_without_outputs_and_counts(path):
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert set(nbformat.read(path, as_version=4).metadata) == {"kernelspec", "language_info"}


@every_notebook
def test_it_defines_no_function_and_no_class(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))


@every_notebook
def test_its_cells_are_short(path):
    sizes = [lines_of(cell) for cell in code_cells(path)]
    assert max(sizes) <= LINES
    assert statistics.median(sizes) <= 3


@every_notebook
def test_it_imports_nothing_but_diag(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= {"diag"}


@every_notebook
def test_it_calls_only_public_names_of_diag(path):
    import diag

    for cell in code_cells(path):
        for name in re.findall(r"\bdiag\.(\w+)", cell.source):
            assert name in diag.__all__ or name == "views"


@every_notebook
def test_its_links_lead_to_notebooks_that_are_there(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#]+\.ipynb)\)", cell.source):
            assert (path.parent / target).is_file()


@every_notebook
def test_parameters_are_literals_in_one_tagged_cell(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == (path.name in WITH_PARAMETERS)
    for node in (node for cell in tagged for node in ast.parse(cell.source).body):
        assert isinstance(node, ast.Assign)
        ast.literal_eval(node.value)


@pytest.mark.slow
@every_notebook
def test_it_runs_from_top_to_bottom_as_it_is(path, tmp_path):
    papermill.execute_notebook(path, tmp_path / path.name, cwd=tmp_path, progress_bar=False, kernel_name="python3")
    nb = nbformat.read(tmp_path / path.name, as_version=4)
    assert not [cell for cell in nb.cells for output in cell.get("outputs", []) if output.output_type == "error"]
