"""How many combinations work, which one to use, why, and the exit code that goes with it."""

from __future__ import annotations

import json

import pytest
from typed_frames import RULE, SIMULATED, failed, frame, worked

from diag.values.exits import Exit
from diag.views.report.verdict import verdict_of


def test_the_headline_counts_what_works_on_this_machine():
    rows = worked("auto"), worked("disk", n_offloaded=270), failed("disk", "nf4", "unsupported", RULE)
    verdict = verdict_of(frame(*rows))
    assert verdict.headline == "2 of 3 combinations of smollm2 work on this machine"


def test_the_headline_says_what_was_simulated():
    verdict = verdict_of(frame(worked("auto"), worked("auto", hardware=SIMULATED)))
    assert verdict.headline.endswith("1 of 1 on this machine and 1 of 1 on simulated 2x300MiB+8GiB")


def test_resident_weights_are_preferred_to_offloaded_ones():
    best = verdict_of(frame(worked("disk", n_offloaded=270), worked("cpu"))).best
    assert (best.device_map, best.hardware) == ("cpu", "this machine")
    assert "every tensor is resident" in best.because


def test_the_exact_model_is_preferred_to_a_quantized_one():
    assert verdict_of(frame(worked("auto", "nf4", quality_kl=0.48), worked("cpu"))).best.quantization == "none"


def test_a_quantized_model_in_memory_is_preferred_to_an_exact_one_on_disk():
    best = verdict_of(frame(worked("auto", n_offloaded=100), worked("auto", "nf4", quality_kl=0.48))).best
    assert best.quantization == "nf4"
    assert "KL divergence of 0.48" in best.because


def test_a_simulated_row_is_advised_only_where_nothing_real_works_and_says_so():
    simulated = worked("auto", hardware=SIMULATED)
    assert verdict_of(frame(simulated, worked("disk", n_offloaded=9))).best.hardware == "this machine"
    assert verdict_of(frame(simulated)).best.hardware == SIMULATED


def test_a_smaller_combination_is_named_where_it_saves_a_quarter():
    large, small = worked("auto"), worked("auto", "nf4", peak_host_bytes=120 * 2**20, quality_kl=0.48)
    assert verdict_of(frame(large, small)).smallest.quantization == "nf4"
    assert verdict_of(frame(large, {**small, "peak_host_bytes": 500 * 2**20})).smallest is None
    assert verdict_of(frame({**large, "peak_host_bytes": None})).smallest is None, "it was advised in place of itself"


def test_a_wrong_answer_is_never_advised():
    verdict = verdict_of(frame(worked("auto", status="wrong_output", max_abs_diff=3.0)))
    assert verdict.best is None
    assert verdict.works == 0


@pytest.mark.parametrize("status", ["ok", "wrong_output", "out_of_memory", "unsupported"])
def test_a_matrix_that_found_something_out_is_as_expected(status):
    assert verdict_of(frame(worked("auto", status=status))).exit_code is Exit.AS_EXPECTED


def test_a_matrix_in_which_nothing_was_compared_or_nobody_could_read_the_model_could_not_judge():
    rows = worked("auto", status="unchecked"), failed("cpu", "none", "not_run", "cancelled")
    assert verdict_of(frame(*rows)).exit_code is Exit.NOT_JUDGED
    for error in ("CheckpointError", "GatedRepoError", "OSError"):
        row = failed("auto", "none", "load_error", "?", error_type=error)
        assert verdict_of(frame(row)).exit_code is Exit.NOT_JUDGED


@pytest.mark.parametrize("status", ["killed", "timeout", "load_error"])
def test_a_matrix_whose_every_load_ended_badly_is_not_as_expected(status):
    broken = failed("auto", "none", status, "?", error_type="KeyError")
    assert verdict_of(frame(broken)).exit_code is Exit.NOT_JUDGED
    assert verdict_of(frame(broken, worked("cpu"))).exit_code is Exit.AS_EXPECTED


def test_an_empty_frame_has_a_verdict_too():
    verdict = verdict_of(frame())
    assert (verdict.total, verdict.best, verdict.exit_code) == (0, None, Exit.NOT_JUDGED)
    assert "No combination" in verdict.headline


def test_the_verdict_survives_json():
    verdict = verdict_of(frame(worked("auto"), failed("disk", "nf4", "unsupported", RULE)))
    assert json.loads(json.dumps(verdict.to_json())) == verdict.to_json()
    assert verdict.to_json()["counts"] == {"ok": 1, "unsupported": 1}


def test_counts_read_as_words():
    rows = worked("auto"), worked("cpu", status="wrong_output"), failed("disk", "nf4", "killed", "SIGKILL")
    assert verdict_of(frame(*rows)).counts_text == "1 works, 1 wrong answer, 1 killed"
