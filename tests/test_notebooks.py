"""The notebooks are the product's face: they tell and call, hold no logic, and run from top to bottom as they are."""

from __future__ import annotations

import ast
import itertools
import re
import statistics
from pathlib import Path

import nbformat
import papermill
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
WALKTHROUGH = [
    "00_start_here.ipynb", "01_reproduce_the_error.ipynb", "02_load_matrix.ipynb", "03_read_the_placement.ipynb",
    "04_fix_it.ipynb", "05_your_model.ipynb", "06_the_service.ipynb", "07_gpus_you_do_not_have.ipynb",
]  # fmt: skip
LINES = 15

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    """The code cells, with magics taken out of their source so that it parses."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for cell in cells:
        cell.source = "\n".join("pass" if line.startswith("%") else line for line in cell.source.splitlines())
    return cells


def test_the_walkthrough_and_the_report_are_there():
    assert {path.name for path in NOTEBOOKS} == {*WALKTHROUGH, "report.ipynb"}


@pytest.mark.parametrize(("name", "following"), list(itertools.pairwise(WALKTHROUGH)))
def test_each_says_how_long_it_takes_and_leads_to_the_next(name, following):
    cells = nbformat.read(NOTEBOOKS[0].parent / name, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.search(r"About \d+ minutes", text) and f"]({following})" in text


@pytest.mark.parametrize("name", WALKTHROUGH)
def test_each_ends_by_checking_what_was_learned_and_freeing_its_models(name):
    check, free = code_cells(NOTEBOOKS[0].parent / name)[-2:]
    if name == "05_your_model.ipynb":  # one's own model may fail the check, and is freed before it
        check, free = free, check
    assert check.source.find("lessons.check(") >= 0 and "check" in check.metadata.tags
    assert free.source.rstrip().endswith("lessons.held()")


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
    sizes = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code_cells(path)]
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
            assert name in {*diag.__all__, "views", "reproduce"}


@every_notebook
def test_its_links_lead_to_notebooks_that_are_there(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#]+\.ipynb)\)", cell.source):
            assert (path.parent / target).is_file()


@every_notebook
def test_parameters_are_literals_in_one_tagged_cell(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for node in (node for cell in tagged for node in ast.parse(cell.source).body):
        assert isinstance(node, ast.Assign)
        ast.literal_eval(node.value)


@pytest.mark.slow
@every_notebook
def test_it_runs_from_top_to_bottom_as_it_is(path, tmp_path):
    papermill.execute_notebook(path, tmp_path / path.name, cwd=tmp_path, progress_bar=False, kernel_name="python3")
    nb = nbformat.read(tmp_path / path.name, as_version=4)
    assert not [cell for cell in nb.cells for output in cell.get("outputs", []) if output.output_type == "error"]
