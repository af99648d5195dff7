"""The walkthrough in a real JupyterLab: cells run, widgets are clicked, rows arrive, runs are cancelled.

Pictures are left in build/screenshots, to be looked at.
"""

import re

import pytest
from notebook_page import LONG, NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_00_first_table_then_proof_then_free_memory(lab, page):
    notebook = NotebookPage(page, lab, "00_start_here.ipynb")
    notebook.menu("Run", "Run All Cells")
    notebook.outputs("%xdel outcome").get_by_text("This kernel holds no model").wait_for(timeout=LONG)
    assert "✓ proved" in notebook.outputs("diag.prove(outcome.model").inner_text()
    assert "All of it holds here" in notebook.outputs("lessons.check(").inner_text()
    notebook.cell("diag.prove(outcome.model").scroll_into_view_if_needed()
    notebook.shot("start-here")


def test_01_a_scenario_is_played_and_the_failing_cell_is_explained(lab, page):
    fails = "stage.model(**stage.inputs)"
    lab.edited("01_reproduce_the_error.ipynb", fails, "%diag", "%diag on", f"{fails}.logits", "1 / 0")
    notebook = NotebookPage(page, lab, "01_reproduce_the_error.ipynb")
    player = notebook.run_to("widgets.step_player(scenario)")
    player.get_by_role("button", name="Next step").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # while the first step is played
    player.get_by_text("was not counted").wait_for(timeout=LONG)
    for number in (1, 2, 3):
        if number > 1:
            page.keyboard.press("Enter")
        player.get_by_text(f"Step {number} of 3:").wait_for(timeout=LONG)
        assert notebook.focused() == "Next step", "the keyboard's focus stays where it was"
    page.keyboard.press("Enter")
    player.get_by_text("There is no further step").wait_for(timeout=LONG)
    assert "18 of 59 names changed" in player.inner_text()
    player.get_by_role("button", name="Diagnose").click()
    player.locator(".finding").first.wait_for(timeout=LONG)
    summary = player.locator(".finding summary").first
    colours = [one.evaluate("one => getComputedStyle(one).color") for one in (summary.locator("code"), summary)]
    assert colours[0] == "rgb(22, 32, 43)" != colours[1], "a cause looks like no link"
    notebook.shot("player", player)
    player.get_by_role("button", name="Back to start").click()
    player.get_by_text("Step 0 of 3.").wait_for(timeout=LONG)

    notebook.run("stage = reproduce.get(")
    notebook.run("%load_ext diag")
    assert "is not on the expected device" in notebook.run(fails).inner_text()
    card = notebook.run_exactly("%diag").locator(".finding").first
    card.wait_for(timeout=LONG)
    assert "hooks-removed" in card.inner_text() and "Fix:" in card.inner_text()
    notebook.shot("diag-card", card)
    notebook.run("%diag on")
    below = notebook.run(f"{fails}.logits")
    below.locator(".finding").first.wait_for(timeout=LONG)
    assert notebook.run("1 / 0").locator(".finding").count() == 0, "an error that is not ours stays as it was"


def test_02_rows_arrive_one_is_opened_a_run_is_cancelled_and_one_interrupted(lab, page):
    maps, kinds = ["auto", "single", "disk", "offload"], ["none", "nf4"]
    lab.edited("02_load_matrix.ipynb", device_maps=maps, quantizations=kinds, hardware=["2x600KiB+8GiB"])
    notebook = NotebookPage(page, lab, "02_load_matrix.ipynb")
    notebook.run("model = ")
    notebook.run("specs = diag.grid(")
    panel = notebook.run("widgets.matrix_panel(")
    page.set_viewport_size({"width": 1280, "height": 1120})
    panel.get_by_role("button", name="Price").click()
    panel.get_by_text(re.compile("8 rows; .* loads")).wait_for(timeout=LONG)
    panel.get_by_role("button", name="Run", exact=True).focus()
    page.keyboard.press("Enter")
    panel.get_by_text("Done: 8 rows").wait_for(timeout=LONG)
    assert notebook.focused() == "Run"
    panel.get_by_role("button", name="disk · none").click()
    panel.get_by_text(re.compile("Offloaded to disk")).first.wait_for(timeout=LONG)
    notebook.shot("matrix-panel", panel)
    panel.get_by_role("button", name="disk · nf4").click()
    panel.get_by_text("the load was refused before it began").wait_for(timeout=LONG)
    panel.get_by_role("button", name="single · none").click()
    panel.get_by_text("the load did not finish").wait_for(timeout=LONG)
    assert notebook.focused() == "▾ single · none"
    _check_controls(notebook, panel)
    notebook.theme("JupyterLab Dark")
    _check_controls(notebook, panel)
    notebook.shot("matrix-panel-dark")
    notebook.theme("JupyterLab Light")

    def run_and_stop(results, stop):
        panel.get_by_label("results").fill(results)
        panel.get_by_role("button", name="Run", exact=True).click()
        panel.get_by_text(re.compile("[1-9] of 8 rows")).wait_for(timeout=LONG)
        stop()
        panel.get_by_text(re.compile("Cancelled at .* They are kept")).wait_for(timeout=LONG)

    run_and_stop("other.sqlite", panel.get_by_role("button", name="Cancel").click)
    notebook.shot("matrix-cancelled")
    run_and_stop("third.sqlite", lambda: notebook.menu("Kernel", "Interrupt Kernel"))


def _check_controls(notebook, panel):
    """Buttons can be read, and the focus can be seen, in the theme that is on."""
    assert {name: ratio for name, ratio in notebook.buttons().items() if ratio < 4.5} == {}
    for control in (
        panel.get_by_role("button", name="Run", exact=True),
        panel.get_by_role("button", name="auto · none"),
        panel.get_by_role("checkbox").first,
        panel.get_by_label("results"),
    ):
        style, width, ratio = notebook.focus_ring(control)
        assert style == "solid" and width >= 2 and ratio >= 3, (control, style, width, ratio)


@pytest.mark.exhaustive
def test_03_the_explorer_filters_searches_and_fits_a_phone(lab, page):
    many = (
        "import pandas\n"
        "many = pandas.concat([table] * 848, ignore_index=True)[:50000].assign(tied_group=range(50000))\n"
        "widgets.placement_explorer(many)"
    )
    lab.edited("03_read_the_placement.ipynb", many)
    notebook = NotebookPage(page, lab, "03_read_the_placement.ipynb")
    explorer = notebook.run_to("widgets.placement_explorer(table)")
    explorer.get_by_label("backing").select_option("offloaded")
    explorer.get_by_text("36 of 59 names").wait_for(timeout=LONG)
    explorer.get_by_label("name").fill("*.mlp.*")
    page.keyboard.press("Enter")
    explorer.get_by_text("12 of 59 names").wait_for(timeout=LONG)
    notebook.shot("explorer", explorer)
    style, width, ratio = notebook.focus_ring(explorer.get_by_label("backing"))
    assert style == "solid" and width >= 2 and ratio >= 3
    notebook.as_on_a_phone()
    explorer.get_by_text("12 of 59 names").scroll_into_view_if_needed()
    notebook.shot("explorer-phone")
    assert notebook.too_wide() == []
    page.set_viewport_size({"width": 1280, "height": 1000})
    large = notebook.run("many = pandas")
    large.get_by_text("Rows 1–4,000 of 50,000").wait_for(timeout=LONG)
    large.get_by_role("searchbox").fill("layers.3.mlp")
    large.get_by_text("filtered from 4,000 total entries").first.wait_for(timeout=LONG)
    notebook.shot("explorer-50000")
