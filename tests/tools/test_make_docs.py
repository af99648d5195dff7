"""Executed copies for readers on the web: what a page can show of the notebooks, and nothing of the machine."""

import re
from pathlib import Path

import nbformat
import pytest
from make_docs import readable, walkthrough
from markupsafe import Markup

from diag.views.markup import View

DOCS = Path(__file__).parents[2] / "docs"
WIDGET = "application/vnd.jupyter.widget-view+json"


def code(source, *outputs):
    return nbformat.v4.new_code_cell(source, outputs=list(outputs))


def shown(data):
    return nbformat.v4.new_output("execute_result", data)


def test_a_copy_keeps_what_a_page_can_show_and_drops_widgets_bars_and_paths():
    view = View(Markup("<b>2</b>"), "2")._repr_mimebundle_()
    bar = shown({WIDGET: {"model_id": "x"}, "text/plain": "Loading weights: 100%"})
    log = nbformat.v4.new_output("stream", name="stderr", text="noise")
    said = nbformat.v4.new_output("stream", name="stdout", text=f"{Path(__file__).parents[2]}/notebooks")
    executed = nbformat.v4.new_notebook(
        cells=[code("1", bar, log, shown({**view, WIDGET: {}})), code("2", said, shown(view))]
    )
    executed.metadata["widgets"] = {"state": {}}
    made = readable(executed, nbformat.v4.new_notebook(cells=[code("1"), code("2")]))
    first, second = made.cells
    assert "widgets" not in made.metadata and len(first.outputs) == 1
    assert set(first.outputs[0].data) == {"text/html", "text/plain"}
    assert second.outputs[0].text == "./notebooks"
    assert "<style" in first.outputs[0].data["text/html"], "the first output brings the style"
    assert "<style" not in second.outputs[1].data["text/html"], "the others lean on it"


@pytest.mark.parametrize("path", walkthrough(), ids=lambda path: path.stem)
def test_the_copy_in_docs_is_of_this_notebook_and_can_be_shown(path):
    copy = nbformat.read(DOCS / path.name, as_version=4)
    source = nbformat.read(path, as_version=4)
    again = "it is made anew by: python tools/make_docs.py"
    assert [cell.source for cell in copy.cells] == [cell.source for cell in source.cells], again
    assert "widgets" not in copy.metadata
    outputs = [output for cell in copy.cells for output in cell.get("outputs", [])]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    assert not re.search(r"/home/|/Users/|/root/|site-packages", str(outputs))
