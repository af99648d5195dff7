"""Outputs in a real JupyterLab, whose own style sheet has rules for any table: ours hold, and nothing is cut.

Pictures are left in build/screenshots, to be looked at.
"""

import nbformat
import pytest
from notebook_page import LONG, ROOT, NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SETUP = f"""
import sys
sys.path.append({str(ROOT / "tests" / "helpers")!r})
from typed_frames import SIMULATED, failed, frame, worked
import diag
from diag.views.notebook import lessons
from diag.views import plots
from diag.views.report import summary
rule = ("Bitsandbytes weights can't be offloaded: transformers refuses unless llm_int8_enable_fp32_cpu_offload=True is "
        "set (validate_environment in transformers/quantizers/quantizer_bnb_4bit.py and quantizer_bnb_8bit.py).")
rows = frame(
    worked("auto", free_bytes_before='{{"cpu": 8589934592}}'),
    worked("balanced", hardware=SIMULATED),
    worked("auto", "nf4", hardware="24GiB-6GiB+64GiB", quality_kl=0.48, peak_device_bytes='{{"simgpu:0": 312475648}}'),
    failed("disk", "nf4", "unsupported", rule, error_text=rule),
)
causes = diag.causes.describe()[["cause", "title", "fix"]]
error = "RuntimeError: Tensor on device cuda:0 is not on the expected device meta!"
"""
CELLS = ["summary.headline(rows)", "summary.overview(rows)", "summary.failures(rows)", "plots.memory_and_time(rows)",
         "plots.logit_difference(rows)", "lessons.in_full(causes)", "diag.diagnose(text=error)"]  # fmt: skip
STYLES = """table => [getComputedStyle(table).tableLayout, ...[...table.querySelectorAll('th, td')].map(
    cell => `${getComputedStyle(cell).textAlign} ${getComputedStyle(cell.parentElement).backgroundColor}`)]"""


@pytest.fixture
def notebook(lab, page):
    cells = [nbformat.v4.new_code_cell(code) for code in (SETUP, *CELLS)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab.folder / "outputs.ipynb")
    opened = NotebookPage(page, lab, "outputs.ipynb")
    opened.menu("Run", "Run All Cells")
    opened.outputs(CELLS[-1]).locator(".finding").first.wait_for(timeout=LONG)
    return opened


def test_tables_are_set_as_ours_in_both_themes_and_nothing_is_cut_on_a_phone(notebook, page):
    for theme in ("light", "dark"):
        if theme == "dark":
            notebook.theme("JupyterLab Dark")
        for code in CELLS[1:6]:
            table = notebook.outputs(code).locator(".diag table").first
            assert set(table.evaluate(STYLES)) == {"auto", "left rgba(0, 0, 0, 0)"}, (theme, code)
        for number, code in enumerate(CELLS):
            notebook.shot(f"outputs-{theme}-{number}", notebook.cell(code))
    notebook.as_on_a_phone()
    for number, code in enumerate(CELLS):
        notebook.cell(code).scroll_into_view_if_needed()
        assert notebook.too_wide() == [], code
        notebook.shot(f"outputs-phone-{number}", notebook.cell(code))
