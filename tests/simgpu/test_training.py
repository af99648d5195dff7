"""Training works on the first simulated device; over several, and under torch.compile, it is refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from diag.errors import DiagError

IDS = torch.tensor([[1, 5, 9, 33, 7]])


def gradients(model, device):
    ids = IDS.to(device)
    model(ids, labels=ids).loss.backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def test_a_training_step_on_one_device_gives_the_cpus_gradients(tiny_path, two_gpus):
    expected = gradients(AutoModelForCausalLM.from_pretrained(tiny_path), "cpu")
    model = AutoModelForCausalLM.from_pretrained(tiny_path).to("simgpu:0")
    ours = gradients(model, "simgpu:0")
    assert set(ours) == set(expected)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4)
    before = model.model.norm.weight.detach().clone()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.model.norm.weight, before)


def test_convolutions_train_too(two_gpus):
    layer = torch.nn.Conv2d(3, 4, 3).to("simgpu:0")
    layer(torch.ones(1, 3, 8, 8, device="simgpu:0")).sum().backward()
    assert layer.weight.grad.device == torch.device("simgpu:0")


def test_backward_over_several_devices_is_refused_in_a_sentence(two_gpus):
    first = torch.ones(2, device="simgpu:0", requires_grad=True)
    total = (first * 2).to("simgpu:1").sum()
    with pytest.raises(DiagError, match="backward on simulated GPUs works on simgpu:0 only"):
        total.backward()


@pytest.mark.parametrize("backend", ["inductor", "eager"])
def test_compiling_for_simulated_tensors_is_refused_in_a_sentence(backend, two_gpus):
    with pytest.raises(DiagError, match=r"torch\.compile does not run on simulated GPUs"):
        torch.compile(torch.nn.Linear(3, 2).to("simgpu:1"), backend=backend)
    double = torch.compile(lambda x: x * 2, backend=backend)
    with pytest.raises(DiagError, match=r"torch\.compile does not run on simulated GPUs"):
        double(torch.ones(3, device="simgpu:1"))


def test_compiling_for_the_cpu_goes_on_working(two_gpus):
    assert torch.compile(lambda x: x * 2, backend="eager")(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.slow
def test_a_compiled_function_that_moves_to_a_device_inside_says_the_same(two_gpus):
    move = torch.compile(lambda x: x.to("simgpu:1") * 2)
    with pytest.raises(Exception, match=r"torch\.compile does not run on simulated GPUs"):
        move(torch.ones(3))
