"""An executed notebook as one page: the verdict first, the truth above it, nothing that runs or is fetched."""

from __future__ import annotations

import nbformat
import pytest
from page_reader import outside_resources
from typed_frames import failed, frame, worked

from diag.views.report import summary
from diag.views.report.convert import kept_verdict, to_html
from diag.views.report.ending import Ending

HOSTILE = "</pre><script>alert(1)</script><img src=http://evil/x onerror=alert(1)>\x1b[31m"
DIED = {"how": "died", "cell": 4, "cells": 9, "line": "frame = diag.matrix(specs)", "why": "the kernel was killed"}


def code(source: str, *outputs, tags=()):
    cell = nbformat.v4.new_code_cell(source, outputs=list(outputs))
    cell.metadata["tags"] = list(tags)
    return cell


def shown(view):
    return nbformat.v4.new_output("execute_result", view._repr_mimebundle_())


def result(**data):
    return nbformat.v4.new_output("display_data", {key.replace("_", "/"): value for key, value in data.items()})


def raised(said):
    return nbformat.v4.new_output("error", ename="E", evalue=said, traceback=["\x1b[0;31mE\x1b[0m", said])


def page_of(*cells, ended=None) -> str:
    nb = nbformat.v4.new_notebook(cells=list(cells))
    nb.metadata["diag"] = {"ended": ended or {"how": "finished"}}
    return to_html(nb, "title")


def headline_cell():
    return code("x", shown(summary.headline(frame(worked("auto")))), tags=["headline"])


def test_the_headline_comes_first_wherever_its_cell_is():
    later = [nbformat.v4.new_markdown_cell("## Later"), code("1", result(text_plain="1"))]
    html = page_of(*later, headline_cell())
    assert html.index("<h1>") < html.index("Later")


def test_what_went_wrong_stands_above_the_headline():
    html = page_of(headline_cell(), ended=DIED)
    assert html.index("This report is incomplete: the kernel died") < html.index("<h1>")
    assert 'role="alert"' in html


def test_the_notice_says_what_died_where_what_is_valid_and_how_to_go_on():
    text = "\n".join(Ending(**DIED).sentences)
    assert "cell 4 of 9: frame = diag.matrix(specs)" in text and "Why: the kernel was killed." in text
    assert "Still valid:" in text and "run the same command again" in text


def test_a_finished_run_has_no_notice():
    assert 'role="alert"' not in page_of(code("1", result(text_plain="1")))


@pytest.mark.parametrize(
    "output",
    [
        result(text_plain=HOSTILE),
        result(text_latex=HOSTILE),
        result(application_javascript="alert(1)", text_plain="x"),
        nbformat.v4.new_output("stream", name="stdout", text=HOSTILE),
        raised(HOSTILE),
    ],
    ids=["text", "latex", "javascript", "printed", "traceback"],
)
def test_outputs_of_every_kind_are_text(output):
    html = page_of(code(f"model = '''{HOSTILE}'''", output))
    assert outside_resources(html) == []
    assert "<img" not in html and "\x1b" not in html and "&lt;script&gt;" in html


def test_the_colours_of_a_traceback_are_left_out():
    assert "ValueError: x" in page_of(code("1", raised("\x1b[0;31mValueError\x1b[0m: x")))


def test_code_and_printed_lines_are_kept_folded_at_the_end():
    html = page_of(code("specs = 1", nbformat.v4.new_output("stream", name="stderr", text="1/9 auto: ok\n")))
    assert html.index("<details") < html.index("specs = 1") < html.index("1/9 auto: ok")


def test_prose_whose_output_never_came_is_left_out():
    prose = nbformat.v4.new_markdown_cell("## Memory and time")
    assert "Memory and time" not in page_of(code("1", result(text_plain="1")), prose, code("2"))


def test_a_page_of_the_real_views_asks_for_nothing_and_holds_the_style_sheet_once():
    rows = frame(worked("auto"), failed("disk", "nf4", "unsupported", "rule"))
    views = [summary.headline, summary.overview, summary.answers, summary.failures, summary.details]
    html = page_of(*(code("x", shown(view(rows))) for view in views))
    assert outside_resources(html) == [] and html.count("<style") == 1


def test_the_check_for_outside_resources_can_fail():
    assert outside_resources('<script src="https://cdn/x.js">') != []
    assert outside_resources("<img src=http://x/y.png>") == ["http://x/y.png"]
    assert outside_resources("<style>@import 'https://x/y.css'</style>") != []


def test_the_verdict_is_read_from_the_notebook():
    assert kept_verdict(nbformat.v4.new_notebook(cells=[headline_cell()]))["works"] == 1
    assert kept_verdict(nbformat.v4.new_notebook(cells=[code("x")])) is None
