"""64 numbers tell how far two answers are apart."""

import numpy as np
import pytest

from diag.sweep.results.sketch import relative_distance, sketch

ANSWER = np.random.default_rng(1).normal(size=(12, 3000)).astype(np.float32)


@pytest.mark.parametrize("share", [1.0, 1e-1, 1e-3, 1e-5])
def test_the_distance_is_right_within_a_third(share):
    noise = np.random.default_rng(2).normal(size=ANSWER.shape).astype(np.float32)
    found = relative_distance(sketch(ANSWER + share * noise), sketch(ANSWER))
    assert found == pytest.approx(share, rel=0.34)


def test_equal_answers_have_the_same_sketch_on_every_machine():
    assert relative_distance(sketch(ANSWER), sketch(ANSWER.copy())) == 0
    assert sketch(np.arange(5, dtype=np.float32)) == sketch(np.arange(5.0))
    assert sketch(np.ones(3))[:24] == "AAAAAAAAAAAAAAAAAAAAAAAA"


def test_one_changed_position_is_seen():
    changed = ANSWER.copy()
    changed[3] += 0.5
    assert relative_distance(sketch(changed), sketch(ANSWER)) > 0.05


def test_what_is_no_sketch_or_not_finite_gives_no_distance():
    assert sketch(np.array([1.0, np.nan])) == ""
    assert relative_distance("", sketch(ANSWER)) is None
    assert relative_distance("not base64!", sketch(ANSWER)) is None
