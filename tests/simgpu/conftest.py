"""Two simulated GPUs for a test, hidden again afterwards so that other tests see the real machine."""

from __future__ import annotations

import gc

import pytest

from diag import simgpu
from diag.hardware import Hardware


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
