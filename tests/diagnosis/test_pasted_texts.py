"""Every way in which people paste an error: the file is named after its form and its cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnosis.explain import decode, explain_text

PASTED = sorted((Path(__file__).parent.parent / "fixtures" / "pasted").glob("*.txt"))


@pytest.mark.parametrize("file", PASTED, ids=lambda file: file.stem)
def test_a_pasted_text_is_read_in_its_form_and_names_its_cause_first(file):
    cause = file.stem.partition("--")[2]
    assert explain_text(decode(file.read_bytes()))[0].cause == cause


@pytest.mark.parametrize("file", PASTED, ids=lambda file: file.stem)
def test_a_text_alone_never_claims_that_something_is_shown(file):
    assert {found.certainty for found in explain_text(decode(file.read_bytes()))} <= {"likely", "possible"}
