"""The report's page in a real browser without network: nothing is asked for, nothing scrolls sideways, keys work."""

from __future__ import annotations

import nbformat
import pytest
from typed_frames import RULE, SIMULATED, failed, frame, table, worked

from diag.views import plots
from diag.views.report import summary
from diag.views.report.convert import to_html

pytestmark = pytest.mark.browser
LONG_MAP = {f"model.layers.{number}.self_attn.q_proj": 0 for number in range(40)}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with every view, a long map, long errors, and a run that died."""
    rows = frame(
        worked("auto"),
        worked("balanced", hardware=SIMULATED, status="wrong_output", max_abs_diff=3.2, reason="Logits differ."),
        worked(LONG_MAP, "nf4", quality_kl=0.48),
        failed("disk", "nf4", "unsupported", RULE, error_text=RULE),
        failed("cpu", "int8", "load_error", "x" * 300, error_type="KeyError", error_text="y" * 3000),
    )
    pictures = [plots.strips_of({"auto · none": table("0" * 40 + "1" * 30 + "cdx" + "C" * 12)})]
    views = [summary.headline, summary.overview, summary.answers, summary.failures, summary.details,
             plots.memory_and_time, plots.logit_difference]  # fmt: skip
    outputs = [nbformat.v4.new_output("display_data", view._repr_mimebundle_()) for view in pictures]
    outputs += [nbformat.v4.new_output("display_data", view(rows)._repr_mimebundle_()) for view in views]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("z" * 400, outputs=outputs)])
    nb.metadata["diag"] = {"ended": {"how": "died", "cell": 1, "cells": 2, "line": "x" * 300, "why": "killed"}}
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(nb, "title"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(chromium):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, report):
    """Opens the report, or another file, in a page of its own."""
    pages = []

    def open_page(file=report, **how):
        pages.append(browser.new_page(**how))
        pages[-1].goto(file.as_uri())
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_never_scrolls_sideways(opened, width, theme):
    page = opened(viewport={"width": width, "height": 800}, color_scheme=theme)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_asks_for_nothing_and_breaks_no_policy_of_its_own(browser, report):
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(report.as_uri())
    assert asked == [report.as_uri()]
    assert said == []
    context.close()


def test_a_script_that_got_in_would_not_run(opened, report, tmp_path):
    poisoned = tmp_path / "poisoned.html"
    html = report.read_text(encoding="utf-8").replace("<main>", "<main><script>document.title = 'ran'</script>")
    poisoned.write_text(html, encoding="utf-8")
    assert opened(poisoned).title() == "title"


def test_folded_parts_and_wide_tables_are_reached_with_the_tab_key(opened):
    page = opened(viewport={"width": 400, "height": 800})
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"SUMMARY", "DIV"} <= reached


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_follows_the_readers_theme(opened, theme):
    page = opened(color_scheme=theme)
    red, *_ = map(int, page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(","))
    assert (red > 128) == (theme == "light")


def test_offloaded_and_missing_weights_look_different_without_colour(opened):
    patterns = opened().evaluate(
        "['cpu-offloaded', 'disk-offloaded', 'missing', 'cpu'].map(name => "
        "getComputedStyle(document.querySelector('.strip .' + name)).backgroundImage)"
    )
    offloaded_to_cpu, offloaded_to_disk, missing, resident = patterns
    assert "gradient(45deg" in offloaded_to_cpu
    assert "gradient(-45deg" in offloaded_to_disk
    assert missing == resident == "none"


def test_printed_pages_hold_the_strips_and_leave_out_code(opened):
    page = opened()
    page.emulate_media(media="print")
    assert page.locator(".strip").first.is_visible()
    assert not page.locator("details.machinery").is_visible()
