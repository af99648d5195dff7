"""Whatever a name, an error or a parameter holds is shown as text, and a page can't reach for the network."""

from __future__ import annotations

import re

import pytest
from markupsafe import Markup

from diag.values.text import visible
from diag.views.markup import View, render

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(1)</script>",
    "</td></table><h1>gone</h1>",
    "javascript:alert(1)' onclick='alert(1)",
    "&lt;script&gt; written out already",
]


def escape(text: str) -> str:
    """What a template prints of a text."""
    return render("said", words=text).removeprefix("<p>").removesuffix("</p>")


def breakable(text: str) -> str:
    """The same where long words may break."""
    return re.search("<p>(.*)</p>", render("notice", tone="warn", title="", paragraphs=[text]))[1]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_markup_survives_escaping(text):
    assert not re.search(r"[<>\"']", escape(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_cells_captions_and_attributes_add_no_element(text):
    view = render("table", columns=("name", text), rows=[(text, text)], caption=text)
    view += render("said", words="x", look=text)
    names = set(re.findall(r"<\s*/?\s*([a-zA-Z0-9]+)", view))
    assert names <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "p", "span", "wbr"}


def test_colours_and_text_that_turns_reading_order_around_are_written_out_and_lines_and_tabs_stay():
    assert visible("a \x1b[31mred\x1b[0m name") == r"a \x1b[31mred\x1b[0m name"
    assert visible("abc\u202egpj.exe") == r"abc\u202egpj.exe"
    assert visible("one\n\ttwo") == "one\n\ttwo"


def test_a_name_that_is_not_valid_unicode_can_still_be_written():
    escape(b"caf\xe9".decode("utf-8", "surrogateescape")).encode("utf-8")


def test_secrets_go_before_the_text_is_split_for_line_breaks():
    shown = breakable("token hf_abcdefghijklmnopqrstuvwxyz012345 of https://user:pa55word@host/x")
    assert "hf_abc" not in shown.replace("<wbr>", "")
    assert "pa55word" not in shown


def test_breakable_text_is_the_same_text():
    assert breakable('{"model.layers":0}').replace("<wbr>", "") == escape('{"model.layers":0}')


@pytest.mark.parametrize("name", ["device_map='auto'.", "max_memory={0:", "low_cpu_mem_usage=False.", "model.norm"])
def test_a_name_that_fits_a_cell_has_no_place_to_break(name):
    assert breakable(name) == escape(name)


def test_a_long_path_breaks_after_a_separator_and_stays_whole_where_a_line_has_room():
    path = "transformers/quantizers/quantizer_bnb_4bit.py"
    shown = breakable(f"in {path} too")
    assert shown.startswith('in <span class="whole">transformers/<wbr>quantizers/<wbr>')
    assert re.sub(r"<[^>]*>", "", shown) == f"in {path} too"


def test_a_page_forbids_scripts_and_every_address_and_its_style_sheet_names_none():
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', render("page", title="t", content="x"))[1]
    assert "default-src 'none'" in policy and "script-src" not in policy and "http" not in policy
    assert not re.search(r"url\(|@import|https?:", render("style"))


def test_a_title_can_not_close_its_element():
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in render("page", title="</title><script>", content="x")


def test_a_view_is_html_in_a_notebook_and_text_in_a_terminal():
    both = View(Markup("<b>2</b>"), "2") + View(Markup("<i>3</i>"), "3")
    assert repr(both) == "2\n\n3"
    assert "<b>2</b>\n<i>3</i>" in both._repr_mimebundle_()["text/html"]
    assert both._repr_mimebundle_()["text/plain"] == "2\n\n3"


def test_a_notice_says_in_words_what_its_colour_says():
    assert "incomplete" in render("notice", tone="bad", title="This report is incomplete", paragraphs=["why"])


def test_each_card_line_carries_its_column_name():
    html = render("table", columns=("name", "host peak"), rows=[("a", "1")], caption="c")
    assert 'data-label="host peak"' in html


def luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


COLOURS = {name: both for name, *both in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", render("style"))}
ON_PAPER = ["ink", "soft", "link", "good", "bad", "warn"]
WITH_INK = ["box", "good-box", "bad-box", "warn-box"]
ACCELERATORS = ["gpu-a", "gpu-b", "gpu-c", "gpu-d"]
PAIRS = [
    *((name, "paper") for name in ON_PAPER),
    *(("ink", name) for name in WITH_INK),
    *((name, f"{name}-box") for name in ("good", "bad", "warn")),
    *(("gpu-ink", name) for name in ACCELERATORS),
    ("cpu-ink", "cpu"),
    ("lost-ink", "lost"),
]
APART = [(name, "paper") for name in ("bar", "bar-b", "held", "stripe", "disk-stripe", "lost")]
APART += [(name, "cpu") for name in (*ACCELERATORS, "lost")]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "behind"), PAIRS)
def test_text_has_a_contrast_of_4_5_in_both_themes(text, behind, theme):
    assert contrast(COLOURS[text][theme], COLOURS[behind][theme]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("mark", "beside"), APART)
def test_bars_and_patterns_have_a_contrast_of_3_and_accelerators_to_the_cpu_too(mark, beside, theme):
    assert contrast(COLOURS[mark][theme], COLOURS[beside][theme]) >= 3
