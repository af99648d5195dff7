"""Two simulated GPUs for a test, hidden again afterwards so that other tests see the real machine."""

from __future__ import annotations

import gc

import pytest

from diag import simgpu
from diag.values.hardware import Hardware


@pytest.fixture
def two_gpus():
    """2 x 1 GiB and a host of 8 GiB."""
    hardware = Hardware.parse("2x1GiB+8GiB")
    gc.collect()
    simgpu.activate(hardware)
    yield hardware
    gc.collect()
    simgpu.park()


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


# Four shapes stand for all in `make test`: no biases, biases, two stacks, packed experts; `make test-all` runs all.
USUAL = ("tiny", "tiny-gpt2", "tiny-t5", "tiny-mixtral")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        sample = getattr(item, "callspec", None) and item.callspec.params.get("any_sample")
        if sample and item.path.name == "test_true_answers.py" and sample not in USUAL:
            item.add_marker(pytest.mark.exhaustive)
