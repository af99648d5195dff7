"""What a load needs besides its checkpoint is asked before any weight is read, and said in our own words."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

import diag
from diag.errors import CheckpointError, CouldNotJudgeError, DiagError, SpecError, UnsupportedError
from diag.machine.accelerators import accelerator_name

pytestmark = pytest.mark.usefixtures("real_machine")

needs_no_accelerator = pytest.mark.skipif(accelerator_name() is not None, reason="this machine has an accelerator")


def error_of(model="tiny", **values):
    return diag.load(diag.LoadSpec(model, **values)).error


@needs_no_accelerator
@pytest.mark.parametrize("device", [3, "cuda:7", "cuda"])
def test_a_device_that_is_not_there_is_named(device):
    error = error_of(device_map={"": device})
    assert isinstance(error, SpecError)
    assert repr(device) in error.what and "this machine has no accelerator" in error.why


@pytest.mark.parametrize("device_map", ["disk", {"model": "cpu", "lm_head": "disk"}])
def test_an_offload_folder_that_can_not_be_made_is_refused(device_map):
    error = error_of("tiny-mixtral", device_map=device_map, offload_folder="/proc/nope")
    assert isinstance(error, CouldNotJudgeError) and "'/proc/nope' can't be written to" in error.what


def test_an_adapter_that_is_none_is_refused(tmp_path):
    assert "does not exist" in error_of(adapter=str(tmp_path / "absent")).what
    error = error_of(adapter=str(tmp_path))
    assert isinstance(error, CheckpointError) and "holds no PEFT adapter" in error.what


def test_a_loader_that_takes_other_arguments_is_refused():
    error = error_of(loader="os:getcwd")
    assert isinstance(error, DiagError) and "'os:getcwd' can't be called" in error.what
    assert "def load(device_map=None" in error.next_step


def test_a_prompt_that_looks_like_a_function_is_told_so():
    outcome = diag.load(diag.LoadSpec("tiny", probe="Note:this"))
    assert "put a space after the colon" in diag.prove(outcome.model).reason


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "nf4-double"])
def test_float64_can_not_be_packed_in_4_bits(quantization):
    pytest.importorskip("bitsandbytes")
    error = error_of(quantization=quantization, dtype="float64")
    assert isinstance(error, UnsupportedError) and "float64" in error.what
    from bitsandbytes.functional import quantize_4bit

    with pytest.raises(ValueError, match="only supports 16/32-bit floats"):
        quantize_4bit(torch.ones(64, dtype=torch.float64))


# What accelerate can't dispatch: an offloaded entry inside another one. In pairs: the outer device, the inner one.
NESTED = [("cpu", "disk"), ("disk", "cpu")]


@pytest.mark.parametrize(("outer", "inner"), NESTED)
def test_a_nested_offloaded_entry_is_refused_as_accelerate_would_fail(outer, inner, tmp_path):
    device_map = {"model": outer, "model.layers.0": inner, "lm_head": outer}
    error = error_of(device_map=device_map)
    assert isinstance(error, UnsupportedError)
    assert f"'model.layers.0' on '{inner}' is inside 'model' on '{outer}'" in error.what
    with pytest.raises(ValueError, match="is on the meta device"):
        AutoModelForCausalLM.from_pretrained(
            diag.samples.path("tiny"), device_map=device_map, offload_folder=str(tmp_path)
        )


def test_a_nested_entry_that_accelerate_does_dispatch_is_let_through():
    device_map = {"model": 0, "model.layers.0": "cpu", "lm_head": 0}
    outcome = diag.load(diag.LoadSpec("tiny", device_map=device_map, hardware="2x64MiB"))
    assert diag.prove(outcome.model).proved


def test_a_path_below_the_home_folder_is_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert diag.LoadSpec("~/model").model == str(tmp_path / "model")
    assert diag.LoadSpec("tiny", offload_folder="~/off").offload_folder == str(tmp_path / "off")
