"""watch: a healthy offloaded model passes unchanged, the first mix of meta and real data stops it."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch import nn

from diag import LoadSpec, load
from diag.diagnosis.engine import diagnose
from diag.errors import MetaUseError
from diag.loading import samples
from diag.proving.probing import ask
from diag.proving.watching import watch

pytestmark = pytest.mark.usefixtures("real_machine")


def _answer(model: nn.Module, sample: str):
    return ask(model, None, str(samples.path(sample))).outputs


@pytest.mark.parametrize("device_map", ["offload", "disk"])
def test_every_healthy_sample_answers_the_same_bits(any_sample, device_map):
    model = load(LoadSpec(any_sample, device_map=device_map)).model
    expected = _answer(model, any_sample)
    with watch(model):
        assert np.array_equal(_answer(model, any_sample), expected)


def test_simulated_gpus_answer_the_same_bits():
    model = load(LoadSpec("tiny", device_map="offload", hardware="2x300MiB+8GiB")).model
    expected = _answer(model, "tiny")
    with watch(model):
        assert np.array_equal(_answer(model, "tiny"), expected)


def test_a_silent_mix_is_stopped_and_named():
    model = load(LoadSpec("tiny", device_map="offload")).model
    layer = model.model.layers[5].self_attn.q_proj
    layer.forward = types.MethodType(nn.Linear.forward, layer)
    model(torch.tensor([[1, 2]]))  # without watch nothing is raised
    with pytest.raises(MetaUseError) as stopped, watch(model):
        model(torch.tensor([[1, 2]]))
    assert "model.layers.5.self_attn.q_proj (Linear)" in str(stopped.value)
    assert "model.layers.5.self_attn.q_proj.weight" in stopped.value.why


def test_a_weight_read_past_its_hook_is_stopped_and_diagnosed():
    from accelerate import cpu_offload

    model = _TiedByHand()
    cpu_offload(model, execution_device="cpu")
    with pytest.raises(MetaUseError) as stopped, watch(model):
        model(torch.tensor([[1, 2]]))
    found = diagnose(model, error=stopped.value)
    assert (found[0].cause, found[0].tensors) == ("weight-used-outside-hook", ("embedding.weight",))


class _TiedByHand(nn.Module):
    """Uses the embedding's weight as its head, past the embedding's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.inner = nn.Linear(4, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.inner(self.embedding(ids)), self.embedding.weight)


def test_meta_models_may_be_run_on_meta_inputs():
    with torch.device("meta"):
        model, inputs = nn.Linear(2, 2), torch.ones(1, 2)
    with watch(model):
        assert model(inputs).is_meta


def test_a_number_on_the_cpu_goes_with_every_device():
    with watch():
        assert (torch.ones(2, device="meta") * torch.tensor(2.0)).is_meta


def test_the_model_is_not_changed():
    model = nn.Linear(2, 2)
    before = dict(model.__dict__)
    with watch(model):
        model(torch.ones(1, 2))
    assert model.__dict__ == before
