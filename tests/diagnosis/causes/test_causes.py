"""The catalogue: complete, and every real case has one primary cause."""

from __future__ import annotations

import subprocess
import sys

import pytest
from places import ROOT

from diag.diagnosis import causes
from diag.diagnosis.causes.cases import CASES
from diag.diagnosis.causes.symptoms import by_symptom
from diag.diagnosis.explain import explain_text
from diag.errors import DiagError


def test_every_cause_of_the_contract_has_an_entry_and_a_place_in_the_precedence():
    assert len(causes.CATALOGUE) == 31
    assert sorted(causes.PRECEDENCE) == sorted(causes.CATALOGUE)
    assert causes.PRECEDENCE[-1] == "unknown"


def test_every_real_case_has_exactly_one_primary_cause_that_exists():
    assert len(CASES) == 72
    assert {case.cause for case in CASES.values()} <= set(causes.CATALOGUE)
    assert sum(len(entry.cases) for entry in causes.CATALOGUE.values()) == 72


@pytest.mark.parametrize("cause", causes.ids())
def test_every_entry_explains_proves_rules_out_and_says_what_to_do(cause):
    entry = causes.get(cause)
    assert len(entry.explanation) > 100
    assert entry.proves
    assert entry.rules_out
    assert entry.check.endswith("?") or cause == "unknown"
    assert entry.fix.endswith(".")
    assert entry.avoid


def test_an_unknown_id_names_the_nearest_one():
    with pytest.raises(DiagError, match="did you mean 'hooks-removed'"):
        causes.get("hook-removed")


def test_links_are_public_threads():
    assert all(link.startswith("https://github.com/") for link in causes.get("hooks-removed").links)


def test_explaining_a_text_needs_neither_torch_nor_pandas():
    code = "import sys; from diag.diagnosis.explain import explain_text; explain_text('CUDA out of memory'); " \
           "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'numpy', 'transformers')))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_troubleshooting_page_is_the_catalogue():
    page = ROOT / "docs" / "troubleshooting.md"
    assert page.read_text(encoding="utf-8") == causes.as_markdown(), "write it again from causes.as_markdown()"


@pytest.mark.parametrize(("text", "behind"), by_symptom(causes.ids()).items())
def test_a_symptom_on_the_page_is_read_as_one_of_its_causes(text, behind):
    if not text.startswith("no error"):
        assert explain_text(text.replace("…", " cuda:0 "))[0].cause in (*behind, "unknown")
