"""The claims of the first analysis are settled by running them."""

from __future__ import annotations

import pytest

from diag import reproduce
from diag.reproduce import claims, quickfixes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (claims.several_threads_call_at_once, "true"),
        (claims.partial_load_without_bitsandbytes, "false"),
        (claims.to_empty, "false"),
        (claims.any_meta_parameter_is_broken, "false"),
    ],
    ids=lambda value: getattr(value, "scenario", value),
)
def test_each_claim_gets_the_verdict_it_earns(claim, verdict):
    assert claim.settle().answer == verdict


def test_the_blamed_cause_gives_two_other_texts():
    verdict, because = claims.inputs_to_model_device.settle()
    assert verdict == "false"
    assert "Cannot copy out of meta tensor" in because and "Tensor.item() cannot be called" in because
    assert because.endswith("with the embedding on a device it works.")


def test_a_call_while_loading_breaks_only_a_model_that_is_filled_later():
    verdict = claims.called_while_loading.settle()
    assert verdict.answer.startswith("only when") and claims.HEADLINE in verdict.because


@pytest.mark.parametrize("fix", ["DEVICE_MAP=single", "DEVICE_MAP=none"])
@pytest.mark.parametrize("situation", quickfixes.SITUATIONS)
def test_one_device_helps_only_when_the_model_fits(fix, situation):
    answer, because = quickfixes.verdict_over(quickfixes.FIXES[fix](situation))
    assert answer == "only when a GPU holds the whole model"
    assert "too small" in because and "OutOfMemoryError" in because


def test_installing_bitsandbytes_does_not_help_an_offloaded_model():
    tries = quickfixes.FIXES["Removing QUANTIZE or installing bitsandbytes"]("offloaded")
    answer, because = quickfixes.verdict_over(tries)
    assert answer == "only when QUANTIZE is removed" and "refused before the load" in because


def test_every_claim_names_the_scenario_or_the_call_that_shows_it():
    calls = "diag.load(", "from_pretrained("
    for claim in claims.CLAIMS:
        assert claim.scenario in reproduce.names() or claim.scenario.startswith(calls), claim
    quick = [claim.says for claim in claims.CLAIMS if claim.kind == "quick fix"]
    assert len(quick) == len(quickfixes.FIXES) * len(quickfixes.SITUATIONS) == 16
