"""Models on simulated GPUs land where the map says and answer as on the CPU, bit for bit."""

from __future__ import annotations

import gc

import pytest
import torch
from transformers import AutoModelForCausalLM

from diag import simgpu

SPREAD = {
    "model.embed_tokens": 0,
    "lm_head": 0,
    "model.rotary_emb": 0,
    "model.layers.0": "simgpu:0",
    "model.layers.1": 1,
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.layers.4": "cpu",
    "model.layers.5": 1,
    "model.norm": "simgpu:1",
}


def load(path, **kwargs):
    return AutoModelForCausalLM.from_pretrained(path, **kwargs).eval()


@pytest.fixture(scope="module")
def twin(tiny_path, answer):
    """Its logits and tokens."""
    return answer(load(tiny_path))


def where(model) -> set[str]:
    return {str(p.device) for p in model.parameters()}


@pytest.mark.parametrize("preset", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_a_preset_plans_with_the_simulated_sizes_and_the_answer_is_the_twins(preset, tiny_path, twin, answer, two_gpus):
    model = load(tiny_path, device_map=preset, max_memory=simgpu.max_memory(two_gpus))
    home = model.get_input_embeddings().weight.device
    assert where(model) <= {"simgpu:0", "simgpu:1"}
    logits, tokens = answer(model, home)
    assert torch.equal(logits, twin[0]) and tokens == twin[1]


def test_auto_without_max_memory_asks_the_devices_themselves(tiny_path, machine):
    machine("2x1MiB+8GiB")
    model = load(tiny_path, device_map="auto")
    assert where(model) == {"simgpu:0", "simgpu:1"}


def test_a_map_over_both_devices_cpu_and_disk_gives_the_twins_answer(tiny_path, twin, answer, two_gpus, tmp_path):
    model = load(tiny_path, device_map=SPREAD, offload_folder=str(tmp_path))
    assert where(model) == {"simgpu:0", "simgpu:1", "meta"}
    logits, tokens = answer(model, "simgpu:0")
    assert torch.equal(logits, twin[0]) and tokens == twin[1]


def test_offloaded_weights_come_back_to_meta_and_leave_no_bytes_behind(tiny_path, answer, two_gpus, tmp_path):
    model = load(tiny_path, device_map=SPREAD, offload_folder=str(tmp_path))
    answer(model, "simgpu:0")
    gc.collect()
    before = torch.simgpu.memory_allocated(0), torch.simgpu.memory_allocated(1)
    for _ in range(3):
        answer(model, "simgpu:0")
    gc.collect()
    assert (torch.simgpu.memory_allocated(0), torch.simgpu.memory_allocated(1)) == before
    assert {p.device.type for p in model.model.layers[3].parameters()} == {"meta"}


def test_a_forward_past_its_hook_says_what_pytorch_says_on_a_gpu(tiny_path, two_gpus, tmp_path):
    model = load(tiny_path, device_map=SPREAD, offload_folder=str(tmp_path))
    norm = model.model.layers[3].input_layernorm
    with pytest.raises(RuntimeError) as caught:
        type(norm).forward(norm, torch.ones(1, 2, norm.weight.shape[0], device="simgpu:0"))
    assert str(caught.value) == "Tensor on device simgpu:0 is not on the expected device meta!"


def test_moving_a_whole_model_keeps_its_tie_and_its_parameter_objects(tiny_path, two_gpus):
    model = load(tiny_path)
    before = {name: id(p) for name, p in model.named_parameters()}
    model.to("simgpu:1")
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert where(model) == {"simgpu:1"}
    model.to("cpu")
    assert where(model) == {"cpu"}


def test_seeding_the_device_repeats_its_random_numbers(two_gpus):
    torch.simgpu.manual_seed(3)
    first = torch.rand(4, device="simgpu:0")
    torch.simgpu.manual_seed(3)
    assert torch.equal(torch.rand(4, device="simgpu:0").cpu(), first.cpu())
