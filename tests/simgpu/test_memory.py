"""Each simulated GPU counts what lives on it, refuses what does not fit, and plans with true numbers."""

from __future__ import annotations

import gc

import pytest
import torch

from diag import Hardware, simgpu
from diag.errors import DiagError

MIB = 2**20


def mebibytes(count: int, device: str) -> torch.Tensor:
    return torch.empty(count * MIB, dtype=torch.uint8, device=device)


def test_allocated_bytes_rise_with_a_tensor_and_fall_when_its_last_view_dies(two_gpus):
    whole = mebibytes(3, "simgpu:1")
    part = whole[:10]
    assert (torch.simgpu.memory_allocated(0), torch.simgpu.memory_allocated(1)) == (0, 3 * MIB)
    del whole
    assert torch.simgpu.memory_allocated(1) == 3 * MIB
    del part
    assert torch.simgpu.memory_allocated(1) == 0


def test_the_peak_stays_until_it_is_reset(two_gpus):
    del (big := [mebibytes(5, "simgpu:0")])[:]
    assert (torch.simgpu.memory_allocated(0), torch.simgpu.max_memory_allocated(0)) == (0, 5 * MIB)
    assert torch.accelerator.max_memory_allocated(0) == 5 * MIB
    torch.accelerator.reset_peak_memory_stats(0)
    assert torch.simgpu.max_memory_allocated(0) == 0
    assert big == []


def test_too_much_is_an_out_of_memory_error_that_says_asked_capacity_free_and_in_use(machine):
    machine("1x10MiB-4MiB")
    held = mebibytes(1, "simgpu:0")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        mebibytes(6, "simgpu:0")
    text = str(caught.value)
    assert "Tried to allocate 6.00 MiB. GPU 0" in text and "1.00 MiB is allocated by PyTorch" in text
    assert "total capacity of 10.00 MiB of which 5.00 MiB is free" in text
    assert "Other processes (simulated) have 4.00 MiB in use" in text
    assert held.nbytes == MIB


def test_a_result_that_does_not_fit_is_refused_and_leaves_nothing_behind(machine):
    machine("1x4MiB")
    x = torch.ones(MIB // 2, device="simgpu:0")
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 16\.00 MiB"):
        x[:2048, None] * torch.ones(2048, device="simgpu:0")
    assert torch.simgpu.memory_allocated(0) == x.nbytes


def test_a_size_no_host_could_give_is_refused_by_the_device_and_not_by_the_host(two_gpus):
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty((2**40, 2**10), device="simgpu:0")


def test_garbage_is_collected_before_memory_is_refused(machine):
    machine("1x4MiB")
    gc.disable()
    try:
        loop: list = [mebibytes(3, "simgpu:0")]
        loop.append(loop)
        del loop
        assert mebibytes(3, "simgpu:0").nbytes == 3 * MIB
    finally:
        gc.enable()


def test_free_memory_leaves_out_what_a_neighbour_took(machine):
    hardware = machine("2x24GiB-6GiB+8GiB")
    assert torch.simgpu.mem_get_info(0) == (18 * 2**30, 24 * 2**30)
    assert torch.accelerator.get_memory_info(1) == (18 * 2**30, 24 * 2**30)
    assert simgpu.max_memory(hardware)[0] == 18 * 2**30


def test_planning_takes_off_what_lives_on_a_device_and_never_promises_more_host_than_there_is(two_gpus):
    held = mebibytes(100, "simgpu:1")
    planned = simgpu.max_memory(two_gpus)
    assert planned[0] - planned[1] == held.nbytes
    assert simgpu.max_memory(Hardware.parse("1x1GiB+64MiB"))["cpu"] == 64 * MIB
    assert simgpu.max_memory(Hardware.parse("1x1GiB+900000GiB"))["cpu"] < 900000 * 2**30


def test_statistics_have_the_names_that_libraries_ask_for(two_gpus):
    mebibytes(2, "simgpu:0")
    stats = torch.simgpu.memory_stats(0)
    assert stats["allocated_bytes.all.peak"] == 2 * MIB
    assert torch.simgpu.get_device_properties(1).total_memory == 2**30
    assert torch.simgpu.memory_reserved("simgpu:1") == 0
    torch.simgpu.empty_cache()
    torch.simgpu.synchronize()


def test_new_hardware_that_cant_hold_live_tensors_is_refused_with_their_bytes_and_changes_nothing(machine):
    machine("2x10MiB")
    held = mebibytes(8, "simgpu:1")
    with pytest.raises(DiagError) as caught:
        simgpu.activate(Hardware.parse("2x4MiB"))
    assert "simgpu:1 holds 8.00 MiB and would have 4.00 MiB" in str(caught.value)
    assert "Next: " in str(caught.value)
    assert torch.simgpu.get_device_properties(1).total_memory == 10 * MIB
    with pytest.raises(DiagError, match=r"simgpu:1 holds 8\.00 MiB and would have 0 bytes"):
        simgpu.activate(Hardware.parse("1x10MiB"))
    del held
    simgpu.activate(Hardware.parse("1x4MiB"))
    assert torch.accelerator.device_count() == 1


@pytest.mark.slow
def test_ten_thousand_generated_tokens_leave_nothing_behind(tiny_path, two_gpus):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_path, device_map={"": 0}).eval()
    ids = torch.arange(1, 5)[None].repeat(100, 1).to("simgpu:0")
    before = torch.simgpu.memory_allocated(0)
    leases = []
    for _ in range(2):
        generated = model.generate(ids, max_new_tokens=50, min_new_tokens=50, do_sample=False, pad_token_id=0)
        assert generated.shape == (100, 54)
        del generated
        gc.collect()
        assert torch.simgpu.memory_allocated(0) == before
        leases.append(sum(type(thing).__name__ == "Lease" for thing in gc.get_objects()))
    assert leases[0] == leases[1]
