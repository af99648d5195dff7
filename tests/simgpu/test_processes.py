"""Simulated tensors cross process borders: data loader workers, queues; or the receiver is told why not."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, Dataset

from diag.errors import DiagError
from diag.simgpu.patches.pytorch import arrive


class Rows(Dataset):
    """Six numbers on the second device; `make` gives new tensors instead of rows of it."""

    def __init__(self, make: bool) -> None:
        self.values, self.make = torch.arange(6.0, device="simgpu:1").reshape(3, 2), make

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.full((2,), float(i), device="simgpu:1") if self.make else self.values[i]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [True, False])
def test_a_data_loader_worker_sends_batches_home(make, two_gpus):
    batches = list(DataLoader(Rows(make), num_workers=1, batch_size=2, timeout=60))
    assert {batch.device for batch in batches} == {torch.device("simgpu:1")}
    expected = [[0, 0], [1, 1], [2, 2]] if make else [[0, 1], [2, 3], [4, 5]]
    assert torch.cat(batches).tolist() == expected


def answer(questions, answers):
    value = questions.get()
    answers.put(value * 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_a_queue_carries_values_both_ways(dtype, two_gpus):
    context = mp.get_context("fork")
    questions, answers = context.Queue(), context.Queue()
    process = context.Process(target=answer, args=(questions, answers))
    process.start()
    sent = torch.nn.Parameter(torch.ones(2, 3, device="simgpu:0").to(dtype), requires_grad=False)
    questions.put(sent)
    got = answers.get(timeout=60)
    process.join(timeout=60)
    assert got.device == sent.device and torch.equal(got.cpu(), sent.data.cpu() * 2)


def test_a_process_without_that_device_says_so(machine):
    machine("1x1GiB+8GiB")
    with pytest.raises(DiagError, match="arrived in a process that simulates no such GPU"):
        arrive(b"\0" * 4, torch.float32, (1,), 1, False, False)
