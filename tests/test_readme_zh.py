"""The Chinese README opens with the error text, and names only causes that exist."""

import re

from places import ROOT

from diag.diagnosis import causes

README = (ROOT / "README.zh.md").read_text(encoding="utf-8")


def test_it_opens_with_the_error_text():
    assert README.splitlines()[0].endswith("Tensor on device cuda:0 is not on the expected device meta!")


def test_its_table_names_causes_that_exist_in_their_order_with_a_chinese_title():
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|", README, re.MULTILINE)
    named = [cause for cause, _ in rows]
    assert len(named) >= 31
    assert named == [cause for cause in causes.ids() if cause in named]
    assert all(re.search("[\u4e00-\u9fff]", title) for _, title in rows)


def test_its_first_screen_has_the_three_doors():
    first_screen = "\n".join(README.splitlines()[:24])
    for door in ("diag explain", "%diag", "make lab"):
        assert door in first_screen
