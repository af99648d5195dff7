"""Trains on simulated GPUs in a process of its own: PyTorch's engine makes its queues at the first backward.

Started by test_training.py with the name of a function below; a failed assertion ends it with its traceback.
"""

from __future__ import annotations

import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from diag import Hardware, simgpu
from diag.errors import DiagError
from diag.loading import samples

IDS = torch.tensor([[1, 5, 9, 33, 7]])


def activate():
    simgpu.activate(Hardware.parse("2x1GiB+8GiB"))


def gradients(model, device):
    ids = IDS.to(device)
    model(ids, labels=ids).loss.backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def a_step_gives_the_gradients_of_the_cpu():
    activate()
    path = samples.path("tiny")
    model = AutoModelForCausalLM.from_pretrained(path).to("simgpu:0")
    ours = gradients(model, "simgpu:0")
    expected = gradients(AutoModelForCausalLM.from_pretrained(path), "cpu")
    assert set(ours) == set(expected)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4)
    before = model.model.norm.weight.detach().clone()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.model.norm.weight, before)


def convolutions_train_too():
    activate()
    layer = torch.nn.Conv2d(3, 4, 3).to("simgpu:0")
    layer(torch.ones(1, 3, 8, 8, device="simgpu:0")).sum().backward()
    assert layer.weight.grad.device == torch.device("simgpu:0")


def hooks_of_a_parameter_move_with_it():
    activate()
    layer, called = torch.nn.Linear(2, 2), []
    handle = layer.weight.register_hook(lambda gradient: called.append("hook"))
    layer.weight.register_post_accumulate_grad_hook(lambda parameter: called.append("afterwards"))
    layer.to("simgpu:0")(torch.ones(1, 2, device="simgpu:0")).sum().backward()
    assert called == ["hook", "afterwards"], called
    handle.remove()
    layer(torch.ones(1, 2, device="simgpu:0")).sum().backward()
    assert called == ["hook", "afterwards", "afterwards"], called


def after_a_backward_on_the_cpu_it_is_refused():
    torch.ones(1, requires_grad=True).sum().backward()
    activate()
    with pytest.raises(DiagError, match="restart the process"):
        torch.ones(2, device="simgpu:0", requires_grad=True).sum().backward()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
