"""Simulated GPUs for a test, hidden again afterwards so that other tests see the real machine."""

from __future__ import annotations

import gc

import pytest
import torch

from diag import Hardware, simgpu


@pytest.fixture
def machine():
    """Activates any hardware, as text, and hides it after the test."""

    def activate(text: str) -> Hardware:
        gc.collect()
        hardware = Hardware.parse(text)
        simgpu.activate(hardware)
        return hardware

    yield activate
    gc.collect()
    simgpu.park()


@pytest.fixture
def two_gpus(machine):
    return machine("2x1GiB+8GiB")


IDS = torch.tensor([[1, 5, 9, 33, 7]])


@pytest.fixture(scope="session")
def answer():
    """What a model answers to IDS on a device: its logits, and the tokens that it generates from there."""

    def ask(model, device="cpu"):
        ids = IDS.to(device)
        with torch.no_grad():
            logits = model(ids).logits.cpu()
        return logits, model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0).tolist()

    return ask


# Four shapes stand for all in `make test`: no biases, biases, two stacks, packed experts; `make test-all` runs all.
USUAL = ("tiny", "tiny-gpt2", "tiny-t5", "tiny-mixtral")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        sample = getattr(item, "callspec", None) and item.callspec.params.get("any_sample")
        if sample and item.path.name == "test_true_answers.py" and sample not in USUAL:
            item.add_marker(pytest.mark.exhaustive)
