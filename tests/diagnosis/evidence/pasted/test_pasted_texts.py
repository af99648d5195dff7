"""Every way in which people paste an error: the file is named after its form and its cause."""

from __future__ import annotations

import pytest
from places import TESTS

from diag.diagnosis.explain import decode, explain_text

PASTED = sorted((TESTS / "fixtures" / "pasted").glob("*.txt"))


@pytest.mark.parametrize("file", PASTED, ids=lambda file: file.stem)
def test_a_pasted_text_is_read_in_its_form_and_names_its_cause_first(file):
    cause = file.stem.partition("--")[2]
    assert explain_text(decode(file.read_bytes()))[0].cause == cause


@pytest.mark.parametrize("file", PASTED, ids=lambda file: file.stem)
def test_a_text_alone_never_claims_that_something_is_shown(file):
    assert {found.certainty for found in explain_text(decode(file.read_bytes()))} <= {"likely", "possible"}


def test_frames_that_a_display_left_out_do_not_mean_that_a_forward_was_called_directly():
    hidden = """
/srv/app.py:4 in run
❱ 4     output = shared.model(**arguments)
/env/lib/python3.11/site-packages/transformers/models/clip/modeling_clip.py:227 in forward
❱ 227   inputs_embeds = self.token_embedding(input_ids)
/env/lib/python3.11/site-packages/torch/nn/modules/sparse.py:163 in forward
❱ 163   return F.embedding(
RuntimeError: Tensor on device cpu is not on the expected device meta!
"""
    assert "called directly" not in str(explain_text(hidden))
