"""A notebook in JupyterLab as a person uses it: open, run cells, read outputs, click."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat

_NUMBERED = re.compile(r"\[\d+\]")
SHORT, LONG = 20_000, 120_000  # milliseconds


class NotebookPage:
    """One notebook in one page. Cells are addressed by their position among code and text cells."""

    def __init__(self, page: Any, lab: Any, name: str, shots: Path) -> None:
        self.page, self.name, self._shots = page, name, shots
        page.goto(lab.notebook(name))
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=LONG)
        self._dismiss_news()
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached", timeout=LONG)

    def _dismiss_news(self) -> None:
        """JupyterLab asks once whether it may fetch news; it opens beside whatever the test looks at."""
        button = self.page.locator(".jp-toast-button, .Toastify__toast button").filter(has_text="No")
        try:
            button.first.wait_for(timeout=4_000)
            button.first.click()
        except Exception:  # a newer JupyterLab may not ask
            pass

    def command(self, name: str) -> None:
        self.page.evaluate(f"window.jupyterapp && window.jupyterapp.commands.execute({json.dumps(name)})")

    def cell(self, position: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(position)

    def run(self, position: int, timeout: int = LONG) -> Any:
        """Runs one cell and waits until it has a number; returns its output area."""
        cell = self.cell(position)
        cell.scroll_into_view_if_needed()
        cell.locator(".cm-content").first.click()
        self.page.keyboard.press("Control+Enter")
        self.wait(position, timeout)
        return cell.locator(".jp-OutputArea").first

    def wait(self, position: int, timeout: int = LONG) -> None:
        prompt = self.cell(position).locator(".jp-InputPrompt").first
        prompt.filter(has_text=_NUMBERED).wait_for(timeout=timeout)

    def run_all(self) -> None:
        self.page.locator(".jp-Notebook .jp-Cell").first.click()
        self.page.click('li.lm-MenuBar-item:has-text("Run")')
        self.page.click('li.lm-Menu-item:has-text("Run All Cells")')

    def interrupt(self) -> None:
        self.page.click('li.lm-MenuBar-item:has-text("Kernel")')
        self.page.click('li.lm-Menu-item:has-text("Interrupt Kernel")')

    def shot(self, name: str) -> None:
        self.page.screenshot(path=self._shots / f"{name}.png")


def write(folder: Path, name: str, *cells: str) -> str:
    """A notebook of code cells in the folder that JupyterLab serves."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / name)
    return name
