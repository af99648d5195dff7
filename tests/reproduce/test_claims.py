"""The claims of the first analysis are settled by running them."""

from __future__ import annotations

import pytest

from diag.reproduce import claims

pytestmark = pytest.mark.slow


def _verdict(settle) -> str:
    return settle().answer


def test_the_blamed_cause_gives_another_text():
    assert _verdict(claims.inputs_to_model_device) == "false"


def test_overlapping_calls_break_an_offloaded_model():
    assert _verdict(claims.several_threads_call_at_once) == "true"


def test_a_load_without_bitsandbytes_is_refused_whole():
    assert _verdict(claims.partial_load_without_bitsandbytes) == "false"


def test_single_helps_only_when_the_model_fits():
    verdict = claims.single()
    assert verdict.answer.startswith("only when")
    assert "too small" in verdict.because


def test_to_empty_repairs_nothing():
    assert _verdict(claims.to_empty) == "false"


def test_a_meta_parameter_is_no_sign_of_a_broken_model():
    assert _verdict(claims.any_meta_parameter_is_broken) == "false"
