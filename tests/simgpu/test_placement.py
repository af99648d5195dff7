"""Models on simulated GPUs land where the map says and answer as on the CPU, bit for bit."""

from __future__ import annotations

import gc

import pytest
import torch
from transformers import AutoModelForCausalLM

from diag import simgpu

SPREAD = {f"model.layers.{i}": place for i, place in enumerate(["simgpu:0", 1, "cpu", "disk", "cpu", 1])}
SPREAD |= {"model.embed_tokens": 0, "lm_head": 0, "model.rotary_emb": 0, "model.norm": "simgpu:1"}


def load(path, **kwargs):
    return AutoModelForCausalLM.from_pretrained(path, **kwargs).eval()


@pytest.fixture
def spread(tiny_path, tmp_path, two_gpus):
    return load(tiny_path, device_map=SPREAD, offload_folder=str(tmp_path))


@pytest.fixture(scope="module")
def answers_as_its_twin(tiny_path, answer):
    twin = answer(load(tiny_path))

    def check(model, device):
        logits, tokens = answer(model, device)
        assert torch.equal(logits, twin[0]) and tokens == twin[1]

    return check


def where(model) -> set[str]:
    return {str(p.device) for p in model.parameters()}


@pytest.mark.parametrize("preset", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_a_preset_plans_with_the_simulated_sizes(preset, tiny_path, answers_as_its_twin, two_gpus):
    model = load(tiny_path, device_map=preset, max_memory=simgpu.max_memory(two_gpus))
    assert where(model) <= {"simgpu:0", "simgpu:1"}
    answers_as_its_twin(model, model.get_input_embeddings().weight.device)


def test_auto_without_max_memory_asks_the_devices_themselves(tiny_path, machine):
    machine("2x1MiB+8GiB")
    model = load(tiny_path, device_map="auto")
    assert where(model) == {"simgpu:0", "simgpu:1"}


def test_a_map_over_both_devices_cpu_and_disk_gives_the_twins_answer(spread, answers_as_its_twin):
    assert where(spread) == {"simgpu:0", "simgpu:1", "meta"}
    answers_as_its_twin(spread, "simgpu:0")


def test_offloaded_weights_come_back_to_meta_and_leave_no_bytes_behind(spread, answer):
    def allocated_after(times):
        for _ in range(times):
            answer(spread, "simgpu:0")
        gc.collect()
        return torch.simgpu.memory_allocated(0), torch.simgpu.memory_allocated(1)

    assert allocated_after(1) == allocated_after(3)
    assert {p.device.type for p in spread.model.layers[3].parameters()} == {"meta"}


def test_a_forward_past_its_hook_says_what_pytorch_says_on_a_gpu(spread):
    norm = spread.model.layers[3].input_layernorm
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
