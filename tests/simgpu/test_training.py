"""Training works on the first simulated device; over several, and under torch.compile, it is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from interpreter import python

from diag.errors import DiagError

WORKER = Path(__file__).with_name("training_worker.py")
REFUSED = r"torch\.compile does not run on simulated GPUs"


ALONE = """a_step_gives_the_gradients_of_the_cpu convolutions_train_too hooks_of_a_parameter_move_with_it
    after_a_backward_on_the_cpu_it_is_refused""".split()


@pytest.mark.parametrize("what", ALONE)
def test_in_a_process_of_its_own(what):
    done = python(WORKER, what)
    assert done.returncode == 0, done.stderr


def test_backward_over_several_devices_is_refused_in_a_sentence(two_gpus):
    first = torch.ones(2, device="simgpu:0", requires_grad=True)
    total = (first * 2).to("simgpu:1").sum()
    with pytest.raises(DiagError, match="backward on simulated GPUs works on simgpu:0 only"):
        total.backward()


@pytest.mark.parametrize("backend", ["inductor", "eager"])
def test_compiling_for_simulated_tensors_is_refused_in_a_sentence(backend, two_gpus):
    with pytest.raises(DiagError, match=REFUSED):
        torch.compile(torch.nn.Linear(3, 2).to("simgpu:1"), backend=backend)
    double = torch.compile(lambda x: x * 2, backend=backend)
    with pytest.raises(DiagError, match=REFUSED):
        double(torch.ones(3, device="simgpu:1"))


def test_compiling_for_the_cpu_goes_on_working(two_gpus):
    assert torch.compile(lambda x: x * 2, backend="eager")(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.slow
def test_a_compiled_function_that_moves_to_a_device_inside_says_the_same(two_gpus):
    move = torch.compile(lambda x: x.to("simgpu:1") * 2)
    with pytest.raises(Exception, match=REFUSED):
        move(torch.ones(3))
