"""Two GPUs in one operation: the tensors or inputs that are on the other one are named."""

from __future__ import annotations

import pytest
import torch

from diag import LoadSpec, load
from diag.diagnosis.engine import diagnose

IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture
def on_first(two_gpus):
    return load(LoadSpec("tiny-gpt2", device_map="none", hardware="2x1GiB+8GiB")).model.to("simgpu:0")


def _found(model, *args, of=None, **kwargs):
    with pytest.raises(RuntimeError, match="same device") as caught:
        model(*args)
    return diagnose(of or model, error=caught.value, **kwargs)[0]


def test_a_layer_parked_on_the_other_gpu_is_named(on_first):
    on_first.transformer.h[1].mlp.to("simgpu:1")
    one = _found(on_first, IDS.to("simgpu:0"))
    assert (one.cause, one.certainty) == ("device-mismatch", "shown")
    assert set(one.tensors) == {f"transformer.h.1.mlp.{n}" for n, _ in on_first.transformer.h[1].mlp.named_parameters()}


@pytest.mark.parametrize("given", [True, False])
def test_an_input_on_the_other_gpu_is_named(on_first, given):
    ids = IDS.to("simgpu:1")
    one = _found(on_first, ids, **({"inputs": {"input_ids": ids}} if given else {}))
    assert (one.cause, one.certainty, one.tensors) == ("device-mismatch", "shown", ("input_ids",))


def test_a_head_that_is_apart_from_its_embedding_is_a_split_tie(on_first):
    on_first.lm_head.weight = torch.nn.Parameter(on_first.lm_head.weight.detach().to("simgpu:1"))
    one = _found(on_first, IDS.to("simgpu:0"))
    assert (one.cause, one.tensors) == ("tied-weights-split", ("transformer.wte.weight", "lm_head.weight"))


def test_of_a_pipeline_the_component_that_failed_is_named(on_first):
    other = torch.nn.Linear(4, 4).to("simgpu:1")
    on_first.transformer.h[1].mlp.to("simgpu:1")
    one = _found(on_first, IDS.to("simgpu:0"), of={"unet": on_first, "vae": other})
    assert one.cause == "device-mismatch"
    layers = {f"unet.transformer.h.1.mlp.{name}" for name in ("c_fc", "c_proj")}
    assert {name.rpartition(".")[0] for name in one.tensors} <= layers
    assert one.module.startswith("unet.transformer.h.1.mlp")


def test_a_message_alone_names_no_tensor_and_claims_no_state(two_gpus):
    text = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    one = diagnose(error=RuntimeError(text))[0]
    assert (one.cause, one.certainty, one.tensors) == ("device-mismatch", "likely", ())
