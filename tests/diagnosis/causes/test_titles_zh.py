"""The Chinese titles cover the catalogue, and the Chinese README shows all of them."""

import re

from places import ROOT

from diag.diagnosis import causes
from diag.diagnosis.causes.titles_zh import TITLES_ZH, title_zh

README = ROOT / "README.zh.md"


def test_every_cause_has_a_chinese_title_in_the_catalogues_order():
    assert tuple(TITLES_ZH) == causes.ids()
    assert all(re.search("[\u4e00-\u9fff]", title) for title in TITLES_ZH.values())


def test_a_cause_without_a_title_yet_keeps_its_id():
    assert title_zh("hooks-removed") == TITLES_ZH["hooks-removed"] and title_zh("new-cause") == "new-cause"


def test_the_chinese_readme_opens_with_the_error_text_and_lists_every_cause():
    text = README.read_text(encoding="utf-8")
    assert text.splitlines()[0].endswith("Tensor on device cuda:0 is not on the expected device meta!")
    for cause, title in TITLES_ZH.items():
        assert f"| `{cause}` | {title} |" in text


def test_its_first_screen_has_the_three_doors():
    first_screen = "\n".join(README.read_text(encoding="utf-8").splitlines()[:24])
    for door in ("diag explain", "%diag", "make lab"):
        assert door in first_screen
