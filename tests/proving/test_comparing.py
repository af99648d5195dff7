"""distance(): the numbers that decide whether two answers are one."""

from __future__ import annotations

import numpy as np
import pytest

from diag.proving.proof import distance


def logits(seed=0, positions=3, width=5):
    return np.random.default_rng(seed).normal(size=(positions, width)).astype(np.float32)


def test_an_answer_is_at_no_distance_from_itself():
    d = distance(logits(), logits())
    assert (d.max_abs_diff, d.kl_divergence, d.top1_agreement, d.relative) == (0.0, 0.0, 1.0, 0.0)


def test_the_largest_difference_is_found_wherever_it_is():
    other = logits()
    other[2, 4] += 0.5
    assert distance(other, logits()).max_abs_diff == pytest.approx(0.5, abs=1e-6)


def test_a_shift_of_all_logits_changes_them_but_no_probability():
    d = distance(logits() + 1, logits())
    assert d.max_abs_diff == pytest.approx(1, abs=1e-6) and d.kl_divergence == pytest.approx(0, abs=1e-9)


def test_kl_matches_its_definition():
    a, b = logits(0), logits(1)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (b.astype(float), a.astype(float)))
    assert distance(a, b).kl_divergence == pytest.approx((p * np.log(p / q)).sum(-1).mean())


def test_top1_counts_positions():
    b = np.eye(4, dtype=np.float32)
    a = b.copy()
    a[0] = [0, 0, 0, 1]
    assert distance(a, b).top1_agreement == 0.75


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_on_one_side_is_infinitely_far(value):
    other = logits()
    other[0, 0] = value
    assert distance(other, logits()).max_abs_diff == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_same_value_that_is_no_number_on_both_sides_is_no_difference(value):
    both = logits()
    both[0, 0] = value
    assert distance(both, both.copy()).max_abs_diff == 0.0


@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min, np.finfo(np.float16).min])
def test_a_masked_logit_does_not_make_other_differences_small(mask):
    a, b = logits(0), logits(1)
    a[:, 0] = b[:, 0] = mask
    assert distance(a, b).relative > 0.5
