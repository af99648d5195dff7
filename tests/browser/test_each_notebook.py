"""The notebooks without a browser test of their own: Run All in JupyterLab, no traceback, nothing cut off, pictures."""

from __future__ import annotations

import time

import nbformat
import pytest
from notebook_page import LONG, NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]


ONLY_IN_ALL = ("03_read_the_placement", "04_fix_it", "06_the_service", "07_gpus_you_do_not_have")
NAMES = [pytest.param(f"{name}.ipynb", marks=pytest.mark.exhaustive) for name in ONLY_IN_ALL]


@pytest.mark.parametrize("name", ["05_your_model.ipynb", *NAMES])
def test_all_cells_run_and_can_be_read(lab, page, name):
    lab.edited(name)
    notebook = NotebookPage(page, lab, name)
    notebook.menu("Run", "Run All Cells")
    nb = _saved_when_done(notebook, lab.folder / name)
    assert not [output for cell in nb.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    for number, cell in enumerate(notebook.page.locator(".jp-Notebook .jp-CodeCell").all()):
        cell.scroll_into_view_if_needed()
        assert notebook.too_wide() == [], number
        notebook.shot(f"{name[:2]}-{number:02}")


def _saved_when_done(notebook, path):
    """The notebook as JupyterLab saves it once its last code cell has run."""
    end = time.monotonic() + 3 * LONG / 1000
    while time.monotonic() < end:
        notebook.page.keyboard.press("Control+s")
        nb = nbformat.read(path, as_version=4)
        if [cell for cell in nb.cells if cell.cell_type == "code"][-1].execution_count:
            return nb
        notebook.page.wait_for_timeout(1000)
    raise AssertionError(f"{path.name} did not run to its end; its last state is in build/screenshots")
