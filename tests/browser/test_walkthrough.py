"""The magics and widgets in a real JupyterLab, clicked through in headless Chromium."""

import re

import pytest
from notebook_page import LONG, NotebookPage, write

from conftest import SHOTS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BREAK = (
    "from diag import reproduce\nstage = reproduce.get('hooks-removed').start()\n"
    "stage.play(), stage.play()\nmodel = stage.model"
)
RUN = "import torch\nmodel(torch.tensor([[5, 17, 42]]))"


def test_the_card_explains_the_cell_that_just_failed(lab, page):
    name = write(lab.folder, "failing.ipynb", "%load_ext diag", BREAK, RUN, "%diag", "%diag on", RUN, "1/0")
    notebook = NotebookPage(page, lab, name, SHOTS)
    for position in (0, 1, 2):
        notebook.run(position)
    card = notebook.run(3).locator(".finding").first
    card.wait_for(timeout=LONG)
    assert "hooks-removed" in card.inner_text() and "Fix:" in card.inner_text()
    card.scroll_into_view_if_needed()
    notebook.shot("diag-card")
    notebook.run(4)
    below = notebook.run(5)
    below.locator(".finding").first.wait_for(timeout=LONG)
    assert "is not on the expected device" in below.inner_text()
    assert notebook.run(6).locator(".finding").count() == 0, "an error that is not ours stays as it was"


def test_rows_arrive_one_is_opened_and_a_run_is_cancelled(lab, page):
    code = "from diag.views import widgets\npanel = widgets.matrix_panel('tiny', {}, ['none', 'nf4'], results={!r}, workers=1)\npanel"
    few, many = ["auto", "disk"], ["auto", "cpu", "disk", "offload", "single", "none"]
    cells = [code.format(few, "few.sqlite"), code.format(many, "many.sqlite"), "panel.frame['status'].tolist()"]
    notebook = NotebookPage(page, lab, write(lab.folder, "panel.ipynb", *cells), SHOTS)
    output = notebook.run(0)
    output.get_by_role("button", name="Price").click()
    output.get_by_text(re.compile("4 rows; 3 loads")).wait_for(timeout=LONG)
    notebook.shot("matrix-price")
    output.get_by_role("button", name="Run", exact=True).click()
    output.get_by_role("button", name="disk · none").wait_for(timeout=LONG)
    output.get_by_text("Done: 4 rows").wait_for(timeout=LONG)
    output.get_by_role("button", name="disk · none").click()
    output.get_by_text("Offloaded to disk").first.wait_for(timeout=LONG)
    output.get_by_text("Done: 4 rows").scroll_into_view_if_needed()
    notebook.shot("matrix-rows")
    output = notebook.run(1)
    output.get_by_role("button", name="Run", exact=True).click()
    output.get_by_text(re.compile(r"[1-9]\d* of 12 rows")).wait_for(timeout=LONG)
    output.get_by_role("button", name="Cancel").click()
    output.get_by_text(re.compile("Cancelled after .* They are kept")).wait_for(timeout=LONG)
    notebook.shot("matrix-cancelled")
    output.get_by_role("button", name="Run", exact=True).click()
    output.get_by_text(re.compile("[1-9]\\d* of 12 rows$")).wait_for(timeout=LONG)
    notebook.interrupt()
    output.get_by_text(re.compile("Cancelled after .* They are kept")).wait_for(timeout=LONG)
    assert "not_run" in notebook.run(2).inner_text()


def test_the_explorer_filters_and_pages(lab, page):
    code = (
        "import diag, pandas as pd\nfrom diag.views import widgets\n"
        "outcome = diag.load(diag.LoadSpec('tiny', 'offload', hardware='1GiB+4GiB'))\n"
        "widgets.placement_explorer(outcome)"
    )
    many = (
        "table = diag.placement(outcome.model)\n"
        "many = pd.concat([table] * 848, ignore_index=True)[:50000].assign(tied_group=range(50000))\n"
        "widgets.placement_explorer(many)"
    )
    notebook = NotebookPage(page, lab, write(lab.folder, "explorer.ipynb", code, many), SHOTS)
    output = notebook.run(0)
    output.get_by_label("backing").select_option("offloaded")
    output.get_by_text(re.compile("36 of 59 names")).wait_for(timeout=LONG)
    notebook.shot("explorer")
    output = notebook.run(1)
    output.get_by_role("button", name="Last").click()
    output.get_by_text(re.compile("rows 49,951–50,000 of 50,000")).first.wait_for(timeout=LONG)
    notebook.shot("explorer-50000")


def test_a_scenario_is_played_step_by_step(lab, page):
    code = "from diag.views import widgets\nplayer = widgets.step_player('hooks-removed')\nplayer"
    notebook = NotebookPage(page, lab, write(lab.folder, "player.ipynb", code), SHOTS)
    output = notebook.run(0)
    for number in (1, 2, 3):
        output.get_by_role("button", name="Next step").click()
        output.get_by_text(f"Step {number} of 3:").wait_for(timeout=LONG)
    output.get_by_role("button", name="Diagnose").click()
    output.locator(".finding").first.wait_for(timeout=LONG)
    notebook.shot("player")
    output.get_by_role("button", name="Back to start").click()
    output.get_by_text("Step 0 of 3.").wait_for(timeout=LONG)
