"""A matrix frame in words and tables: every row is explained, nothing hostile gets through, nothing is lost."""

from __future__ import annotations

import re

import pytest
from typed_frames import RULE, SIMULATED, failed, frame, table, worked

from diag.sweep.results import gate
from diag.views import plots
from diag.views.report import summary
from diag.views.report.verdict import VERDICT_MIME

HOSTILE = "evil\x1b[31m<script>alert(1)</script>&\u202e"
ALL_VIEWS = [summary.headline, summary.overview, summary.answers, summary.failures, summary.details]
ALL_VIEWS += [plots.memory_and_time, plots.logit_difference]


def mixed():
    return frame(
        worked("auto"),
        worked("cpu", shared_with="auto", reason="Same map as 'auto' here, so one load served both."),
        worked("auto", "nf4", quality_kl=0.48, load_seconds=14.0),
        worked("disk", n_offloaded=270, n_resident=2),
        worked("auto", hardware=SIMULATED),
        worked("balanced", hardware=SIMULATED, status="wrong_output", max_abs_diff=3.2, reason="Logits differ by 3.2."),
        failed("disk", "nf4", "unsupported", RULE, error_type="UnsupportedError", error_text=RULE),
        failed("offload", "nf4", "unsupported", RULE, error_type="UnsupportedError", error_text=RULE),
        failed("auto", "int8", "killed", "SIGKILL while loading or running: it left no message", error_type="SIGKILL"),
    )


@pytest.mark.parametrize("view", ALL_VIEWS)
def test_every_view_takes_an_empty_frame(view):
    assert view(frame()).text


@pytest.mark.parametrize("view", ALL_VIEWS)
def test_hostile_text_anywhere_in_a_row_stays_text(view):
    row = worked("auto", answer=HOSTILE, reason=HOSTILE, error_text=HOSTILE, error_type=HOSTILE, reference=HOSTILE)
    row = {**row, "model": HOSTILE}
    html = view(frame(row, {**row, "device_map": HOSTILE, "status": "load_error"})).html
    assert "<script" not in html and "\x1b" not in html and "\u202e" not in html


def test_the_headline_gives_the_arguments_to_use_and_the_reason_and_its_verdict_for_programs():
    view = summary.headline(mixed())
    assert "device_map='auto', quantization='none' here" in view.text and "bit for bit" in view.text
    assert view._repr_mimebundle_()[VERDICT_MIME]["works"] == 5


def test_the_overview_shows_every_combination_once():
    text = summary.overview(mixed()).text
    assert text.count("✓ works") == 5
    assert text.count("– refused") == 2
    assert "Simulated 2x300MiB+8GiB" in text


def test_a_refusal_is_listed_once_with_its_rule_and_both_maps():
    unwrapped = re.sub(r"\n  +", " ", summary.failures(mixed()).text)
    (line,) = [line for line in unwrapped.splitlines() if "refused" in line]
    assert line.startswith("– disk, offload · nf4: refused.")
    assert RULE in line


def test_every_row_that_did_not_work_is_explained():
    text = summary.failures(mixed()).text
    assert "balanced · none · simulated 2x300MiB+8GiB: wrong answer. Logits differ by 3.2." in text
    assert "auto · int8: killed. SIGKILL while loading" in text


def test_a_row_without_a_reason_shows_its_error():
    row = failed("auto", "none", "load_error", "", error_type="KeyError", error_text="'x'\nmore")
    assert "KeyError: 'x'" in summary.failures(frame(row)).text


def test_the_cause_that_a_row_names_stands_beside_its_reason():
    reason = "It ran out. Cause: out-of-memory (A device or the host ran out of memory). More."
    row = frame(failed("auto", "none", "out_of_memory", reason)).iloc[0]
    assert summary.reason_text(row) == "It ran out. More."
    assert summary.cause_text(row) == "A device or the host ran out of memory (out-of-memory)"


def test_the_cause_of_an_error_comes_from_the_catalogue_and_an_unknown_error_is_given_none():
    def cause(error_type, text):
        row = failed("auto", "none", "forward_error", "", error_type=error_type, error_text=text)
        return summary.cause_text(frame(row).iloc[0])

    assert cause("RuntimeError", "Tensor on device cuda:0 is not on the expected device meta!")
    assert cause("E", "zxcv qwer") == ""


def test_a_run_that_could_not_judge_says_so_before_anything_else():
    rows = failed("auto", "none", "load_error", "no access", error_type="GatedRepoError")
    assert summary.headline(frame(rows)).text.splitlines()[1].startswith("Could not judge smollm2: no access")


def test_the_whole_error_is_there_to_be_opened():
    long = "first line\n" + "x" * 500
    html = summary.failures(frame(failed("auto", "none", "load_error", "short", error_text=long))).html
    assert "<details>" in html and "x" * 500 in html


def test_nothing_is_said_to_have_failed_where_nothing_did():
    assert summary.failures(frame(worked("auto"))).text == "Every combination works."


def test_the_answer_is_quoted_once_for_all_that_gave_it_and_other_answers_name_their_combinations():
    text = summary.answers(mixed()).text
    assert text == "The capital of France is “Paris.” said all 6 that ran; 5 × works, 1 × wrong answer"
    rows = worked("auto"), worked("cpu"), worked("auto", "nf4", answer="Lyon", status="wrong_output")
    assert "The capital of France is “Lyon” said auto · nf4; 1 × wrong answer" in summary.answers(frame(*rows)).text


def test_rows_that_share_a_load_share_a_line():
    text = plots.memory_and_time(mixed()).text
    assert "auto, cpu · none: loads in 0.6 s, a forward takes 0.05 s, peaks at 541 MiB" in text


def test_a_simulated_row_is_marked_wherever_it_is_shown():
    for view in (plots.memory_and_time, plots.logit_difference, summary.failures, summary.details):
        assert f"simulated {SIMULATED}" in view(mixed()).html


def test_prose_for_a_terminal_has_no_line_over_100_columns():
    long = "Loaded and compared. " * 12
    rows = worked("auto", reason=long), failed("disk", "nf4", "unsupported", long)
    for view in (summary.headline, summary.failures, summary.answers, plots.memory_and_time, plots.logit_difference):
        assert max(map(len, view(frame(*rows)).text.splitlines())) <= 100


def test_zero_is_zero_and_not_an_empty_cell():
    assert re.search(r'data-label="largest logit difference"><div>.*?>0<', plots.logit_difference(mixed()).html)


def test_details_hold_every_column_and_every_row():
    html = summary.details(mixed()).html
    assert html.count("<tr") == len(mixed()) + 1
    assert all(f">{name}</th>" in html for name in mixed().columns)


def test_equal_placements_share_a_strip_and_different_ones_do_not():
    view = plots.strips_of({"auto": table("00CC"), "single": table("00CC"), "disk": table("0ddC")})
    assert view.html.count('class="strip"') == 2
    assert "auto = single" in view.text
    assert "[0ddC]" in view.text


def test_a_strip_is_described_in_words_beside_the_picture_and_no_placement_is_said_too():
    html = plots.strips_of({"disk": table("0ddC")}).html
    assert "Offloaded to disk: layers 0–1" in html and 'aria-hidden="true"' in html
    assert "no placement" in plots.strips_of({}).html


def test_what_was_never_loaded_is_not_counted_as_a_failed_load_and_the_reason_is_said_once():
    reason = "The hub could not be asked. Next: check HF_ENDPOINT."
    rows = frame(failed("auto", "none", "load_error", reason, error_type="CheckpointError"))
    alone = summary.headline(rows).text
    assert "load failed" not in alone and "Next: check HF_ENDPOINT." in alone and ".." not in alone
    assert summary.headline(rows, gate.gate_of(rows)).text.count("Could not judge") == 1


def test_refusals_alone_have_no_empty_column_of_causes():
    refused = frame(failed("disk", "nf4", "unsupported", RULE, error_type="UnsupportedError", error_text=RULE))
    broken = frame(failed("auto", "none", "load_error", "It ended. Cause: hooks-removed (Gone)."))
    assert ">cause</th>" not in summary.failures(refused).html
    assert ">cause</th>" in summary.failures(broken).html
