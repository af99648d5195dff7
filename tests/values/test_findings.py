"""Findings as values: text and numbers only, and safe to show."""

import pickle

import pytest

from diag.values.finding import Finding, Findings, Fix, Subject, names_in_words

FIX = Fix("edit", because="do")
ONE = Finding("hooks-removed", "shown", "error", "a <b>title</b>", ("a.weight",), "a", ("because",), (FIX,))


def test_no_findings_means_healthy_and_says_what_was_looked_at():
    healthy = Findings(looked_at=["59 tensors"])
    assert len(healthy) == 0 and healthy.healthy
    assert "Healthy" in str(healthy) and "59 tensors" in str(healthy)


def test_a_notice_alone_is_still_healthy():
    assert Findings([Finding("offload-notice", "likely", "info", "t")]).healthy
    assert not Findings([ONE]).healthy


def test_a_frame_has_one_row_per_finding():
    frame = Findings([ONE]).to_frame()
    assert frame.loc[0, ["cause", "tensors", "fix"]].tolist() == ["hooks-removed", "a.weight", "do"]
    assert list(Findings().to_frame().columns) == list(frame.columns)


def test_html_is_escaped():
    html = Findings([ONE])._repr_html_()
    assert "<b>title</b>" not in html and "&lt;b&gt;title" in html


def test_a_finding_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(ONE)) == ONE


def test_a_certainty_or_severity_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="must be of"):
        Finding("unknown", "certain", "error", "t")


def test_findings_keep_their_subject_and_compare_by_their_items():
    assert Findings([ONE], subject=Subject("model")).subject.model == "model"
    assert Findings([ONE]) == Findings([ONE], looked_at=["x"])


def test_many_names_are_counted():
    assert names_in_words([f"n{i}" for i in range(10)], shown=2) == "n0, n1 and 8 more"
