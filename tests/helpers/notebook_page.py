"""A notebook in JupyterLab as a person uses it: open, run cells, read outputs, click."""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

_COLOURS = r"""
    const rgba = text => { const [r, g, b, a] = text.match(/[\d.]+/g).map(Number); return [r, g, b, a ?? 1]; };
    const over = (top, below) => below.map((value, i) => top[i] * top[3] + value * (1 - top[3]));
    const ground = one => one
        ? over(rgba(getComputedStyle(one).backgroundColor), ground(one.parentElement)) : [255, 255, 255];
    const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const contrast = (text, below) => { const [a, b] = [light(over(rgba(text), below)), light(below)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
"""  # WCAG 2's contrast of a colour with what lies below it
_NUMBERED = re.compile(r"\[\d+\]")
LONG = 180_000  # milliseconds
ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: where it is, its token, and the folder whose notebooks it serves."""

    url: str
    token: str
    folder: Path

    def address(self, name: str) -> str:
        """A notebook's address, in a workspace of its own, so that no other notebook is open beside it."""
        return f"{self.url}/lab/workspaces/{name.partition('.')[0]}/tree/{name}?token={self.token}"

    def wait_for_kernel(self, name: str) -> None:
        """Until the server says that this notebook's kernel is up; the page shows it as idle a little too early."""
        end = time.monotonic() + LONG / 1000
        while time.monotonic() < end:
            with urllib.request.urlopen(f"{self.url}/api/sessions?token={self.token}", timeout=30) as answer:
                sessions = json.load(answer)
            if any(one["path"] == name and one["kernel"]["execution_state"] == "idle" for one in sessions):
                return
            time.sleep(0.2)
        raise AssertionError(f"the kernel of {name} did not come up")

    def edited(self, name: str, *more: str, **parameters: object) -> str:
        """The served copy of a notebook of the walkthrough, with cells put before its last and other parameters."""
        nb = nbformat.read(ROOT / "notebooks" / name, as_version=4)
        for cell in nb.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
        code = [position for position, cell in enumerate(nb.cells) if cell.cell_type == "code"]
        nb.cells[code[-1] : code[-1]] = [nbformat.v4.new_code_cell(cell) for cell in more]
        nbformat.write(nb, self.folder / name)
        return name


class NotebookPage:
    """One notebook in one page; cells are found by what their code begins with or contains."""

    def __init__(self, page: Any, lab: Lab, name: str) -> None:
        self.page = page
        page.goto(lab.address(name))
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=LONG)
        self._dismiss_news()
        lab.wait_for_kernel(name)
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached", timeout=LONG)

    def _dismiss_news(self) -> None:
        """JupyterLab asks once whether it may fetch news; the question lies over what the test looks at."""
        button = self.page.locator(".jp-toast-button, .Toastify__toast button").filter(has_text="No")
        with contextlib.suppress(Exception):  # an instance that asked already does not ask again
            button.first.click(timeout=3_000)

    def cell(self, code: str) -> Any:
        return self.page.locator(".jp-Notebook .jp-CodeCell").filter(has_text=code).last

    def run(self, code: str) -> Any:
        """Runs the cell with this code, waits until it is done, and returns its outputs."""
        self._start(self.cell(code))
        return self.outputs(code)

    def _start(self, cell: Any) -> None:
        cell.locator(".cm-content").first.click()
        self.page.keyboard.press("Control+Enter")

    def run_exactly(self, code: str) -> Any:
        """Runs the cell whose whole code this is."""
        content = self.page.locator(".cm-content", has_text=re.compile(rf"^{re.escape(code)}$"))
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").filter(has=content).last
        self._start(cell)
        self._done(cell)
        return cell.locator(".jp-OutputArea").first

    def run_to(self, code: str) -> Any:
        """Runs every cell from the first to the one with this code, one after another as Shift+Enter does."""
        target = self.cell(code).element_handle()
        for cell in self.page.locator(".jp-Notebook .jp-CodeCell").all():
            self._start(cell)
            self._done(cell)
            if cell.evaluate("(one, other) => one === other", target):
                break
        return self.outputs(code)

    def outputs(self, code: str) -> Any:
        cell = self.cell(code)
        self._done(cell)
        return cell.locator(".jp-OutputArea").first

    def _done(self, cell: Any) -> None:
        cell.locator(".jp-InputPrompt").first.filter(has_text=_NUMBERED).wait_for(timeout=LONG)

    def menu(self, menu: str, item: str) -> None:
        self.page.click(f'li.lm-MenuBar-item:has-text("{menu}")')
        self.page.locator("li.lm-Menu-item").filter(has_text=item).first.click()

    def shot(self, name: str, of: Any = None) -> None:
        """A picture of the page as it is scrolled, or of what it shows of an element, from the element's top."""
        if of is None:
            self.page.screenshot(path=SHOTS / f"{name}.png")
            return
        of.evaluate("one => one.scrollIntoView({block: 'start'})")
        box, seen = of.bounding_box(), self.page.locator(".jp-WindowedPanel-outer").first.bounding_box()
        height = min(box["y"] + box["height"], seen["y"] + seen["height"]) - box["y"]
        self.page.screenshot(path=SHOTS / f"{name}.png", clip={**box, "height": height})

    def theme(self, name: str) -> None:
        """Switches JupyterLab to a theme: its own light or dark one."""
        self.page.click('li.lm-MenuBar-item:has-text("Settings")')
        self.page.locator("li.lm-Menu-item").filter(has_text="Theme").first.hover()
        self.page.locator("li.lm-Menu-item").filter(has_text=re.compile(f"^{re.escape(name)}$")).last.click()
        dark = "false" if "Dark" in name else "true"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{dark}"]', state="attached", timeout=LONG)

    def buttons(self) -> dict[str, float]:
        """The contrast of the text of each widget's button that is shown."""
        script = f"""() => {{ {_COLOURS}
            const shown = [...document.querySelectorAll('.diag-live button')].filter(one => one.offsetParent);
            return Object.fromEntries(shown
                .map(one => [one.textContent, contrast(getComputedStyle(one).color, ground(one))])); }}"""
        return self.page.evaluate(script)

    def focus_ring(self, of: Any) -> tuple[str, float, float]:
        """The outline of an element that the keyboard brought the focus to: style, pixels, contrast with its ground."""
        of.focus()
        self.page.keyboard.press("Shift+Tab")
        self.page.keyboard.press("Tab")
        script = f"""one => {{ {_COLOURS} const style = getComputedStyle(one);
            return [style.outlineStyle, parseFloat(style.outlineWidth),
                    contrast(style.outlineColor, ground(one.parentElement))]; }}"""
        return tuple(of.evaluate(script))

    def focused(self) -> str:
        """The text of the element that has the keyboard's focus; all of the page's where none has it."""
        return self.page.evaluate("() => document.activeElement.textContent")

    def as_on_a_phone(self) -> None:
        """400 pixels wide, the side bar folded."""
        self.page.locator(".jp-SideBar.jp-mod-left li.lm-mod-current").click()
        self.page.set_viewport_size({"width": 400, "height": 900})

    def too_wide(self) -> list[str]:
        """What of diag's outputs is cut off or sticks out of its box; a table in a box that scrolls does not."""
        script = """() => [...document.querySelectorAll('.jp-OutputArea .diag, .diag-live, .diag *')]
            .filter(one => one.clientWidth && one.scrollWidth > one.clientWidth + 1)
            .filter(one => !one.closest('.scroll:has(table:not(.cards)), .strip, .room, thead'))
            .map(one => `${one.tagName} ${one.className} ${one.scrollWidth} > ${one.clientWidth}`)"""
        return self.page.evaluate(script)
