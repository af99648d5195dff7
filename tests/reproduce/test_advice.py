"""The web's advice, tried for real: what silences the error is not what repairs the model."""

import pytest

import diag
from diag import reproduce
from diag.reproduce.advice import compare_guards, try_advice, try_fixes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tried():
    return try_advice().set_index("advice")


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("model.to(device)", "fails"),
        ("to_empty", "wrong answer"),
        ("state dict into it again", "fails"),
        ("assign=True", "proved"),
        ("Dispatch it again", "fails"),
        ("device_map='auto'", "proved"),
    ],
)
def test_each_advice_gets_the_verdict_it_earns(tried, words, verdict):
    found = tried[tried.index.str.contains(words, regex=False)]
    assert list(found["verdict"]) == [verdict]


def test_every_verdict_says_what_happened_and_when_the_advice_is_right(tried):
    assert tried["what_happened"].str.len().gt(10).all() and tried["right_when"].str.len().gt(10).all()


def test_a_fix_is_called_proved_only_with_its_proof():
    found = try_fixes(["hooks-removed", "constructor-on-meta"]).set_index("scenario")
    assert found.verdict["hooks-removed"] == "proved" and "bit for bit" in found.proof["hooks-removed"]
    assert found.verdict["constructor-on-meta"] == "by hand"


def test_a_guard_that_looks_for_meta_refuses_healthy_models_too():
    healthy = diag.load(diag.LoadSpec("tiny", device_map="disk")).model
    with reproduce.get("hooks-removed").run() as stage:
        found = compare_guards({"healthy": healthy, "broken": stage.model}).set_index("model")
    assert list(found.any_parameter_on_meta) == ["refuses it", "refuses it"]
    assert list(found.require_materialised) == ["lets it pass", "refuses it"]
    assert found.when_called["healthy"] == "answers" and "device meta" in found.when_called["broken"]
