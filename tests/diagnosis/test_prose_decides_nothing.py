"""Whoever polishes a sentence breaks nothing: with nonsense in every prose field all decisions stay the same."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from operator import attrgetter

import pytest
import torch
from broken_models import offloaded, plain, without_hooks
from places import TESTS

from diag import LoadSpec
from diag.diagnosis import causes
from diag.diagnosis.cause import Cause
from diag.diagnosis.engine import diagnose
from diag.diagnosis.explain import explain_text
from diag.diagnosis.mending.fixes import fix
from diag.diagnosis.mending.plans import plan

_PROSE = ("title", "explanation", "proves", "rules_out", "check", "fix", "avoid", "versions", "seen_as", "shows_as")
_PASTED = sorted((TESTS / "fixtures" / "pasted").glob("*.txt"))


def _nonsense(words: itertools.count[int], value: object) -> object:
    return tuple(f"Gnarf {next(words)}." for _ in value) if isinstance(value, tuple) else f"Gnarf {next(words)}."


def _without_prose(cause: Cause, words: itertools.count[int]) -> Cause:
    values = {name: _nonsense(words, getattr(cause, name)) for name in _PROSE}
    texts = tuple(dataclasses.replace(text, says=f"gnarf {next(words)}") for text in cause.texts)
    return dataclasses.replace(cause, **values, texts=texts)


@pytest.fixture
def nonsense(monkeypatch):
    """Replaces the prose of every cause, in the registry and in its own file."""

    def replace_all() -> None:
        words = itertools.count()
        files = []
        for file in causes.FILES:
            cause = _without_prose(file.cause, words)
            module = f"{causes.__name__}.{cause.id.replace('-', '_')}"
            monkeypatch.setattr(sys.modules[module], "CAUSE", cause)
            files.append(dataclasses.replace(file, cause=cause))
        monkeypatch.setattr(causes, "FILES", tuple(files))
        monkeypatch.setattr(causes, "CATALOGUE", {file.cause.id: file for file in files})

    return replace_all


def _decided(found) -> list[tuple]:
    spec = LoadSpec("tiny", device_map="auto")
    named = attrgetter("cause", "certainty", "severity", "tensors", "module", "situation")
    acts = attrgetter("kind", "action", "situation", "requires", "spec", "nbytes")
    return [(*named(one), [acts(way) for way in (*one.fixes, *plan(one, spec))]) for one in found]


def test_every_field_of_a_record_is_prose_or_decides():
    """A new field has to be put on one of the two sides."""
    decide = {"id", "rank", "fix_kind", "severity", "shown_on", "texts", "cases", "needs", "enough", "looks_at"}
    flags = {field.name for field in dataclasses.fields(Cause) if field.type is bool}
    assert {field.name for field in dataclasses.fields(Cause)} == {*_PROSE, *decide, *flags}


def test_texts_are_ranked_alike(nonsense):
    before = [_decided(explain_text(path.read_text(errors="replace"))) for path in _PASTED]
    nonsense()
    after = [explain_text(path.read_text(errors="replace")) for path in _PASTED]
    assert [_decided(found) for found in after] == before
    assert "Gnarf" in str(after[0])


def _without_hooks():
    return diagnose(without_hooks(offloaded()))


def _with_a_random_layer():
    model = plain()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.normal_()
    return diagnose(model)


def _weight_read_outside():
    model = offloaded()
    with pytest.raises(Exception) as caught:
        model.model.layers[4].mlp.up_proj.weight.norm().item()
    return diagnose(model, error=caught.value)


def _dead_adapter():
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], inference_mode=True)
    return diagnose(peft.get_peft_model(plain(), config))


def _out_of_memory():
    text = "CUDA out of memory. GPU 0 has a total capacity of 23.64 GiB of which 10.00 MiB is free. "
    return diagnose(error=RuntimeError(text + "Including non-PyTorch memory, this process has 3.00 GiB memory in use."))


@pytest.mark.parametrize(
    "broken", [_without_hooks, _with_a_random_layer, _weight_read_outside, _dead_adapter, _out_of_memory]
)
def test_models_and_errors_are_judged_and_mended_alike(nonsense, broken):
    before = _decided(broken())
    assert before
    nonsense()
    assert _decided(broken()) == before


def test_a_fix_is_applied_alike(nonsense):
    before = fix(_without_hooks())
    nonsense()
    after = fix(_without_hooks())
    assert (after.proof.proved, after.ok, len(after.notes)) == (before.proof.proved, before.ok, len(before.notes))
    assert before.proof.proved is True


def test_the_replacement_reaches_the_findings(nonsense):
    nonsense()
    assert _without_hooks()[0].title.startswith("Gnarf")
