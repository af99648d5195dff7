"""What a simulated GPU costs beside the plain CPU, on SmolLM2, in one run: python benchmarks/simgpu_cost.py [rounds]

Each row is the fastest of several rounds that alternate between the two, because other work on the
machine only ever makes a round slower.
"""

from __future__ import annotations

import gc
import sys
import time

import torch
from transformers import AutoModelForCausalLM

from diag import simgpu
from diag.loading import samples
from diag.values.hardware import Hardware

TARGETS = {"load": 1.5, "forward, 512 tokens": 1.3, "decode, 1 token": 5.0}


def main(rounds: int = 5) -> None:
    folder = samples.path("smollm2")
    places = {"cpu": "cpu", "simgpu": {"": 0}}
    simgpu.activate(Hardware.parse("1x4GiB"))
    for device_map in places.values():  # files in the page cache, kernels compiled
        load(folder, device_map)
    times = {step: dict.fromkeys(places, float("inf")) for step in TARGETS}
    for _ in range(rounds):
        for place, device_map in places.items():
            keep_fastest(times["load"], place, timed(lambda where=device_map: load(folder, where)))
    models = {place: load(folder, device_map) for place, device_map in places.items()}
    for _ in range(rounds):
        for place, model in models.items():
            keep_fastest(times["forward, 512 tokens"], place, forward_seconds(model))
            keep_fastest(times["decode, 1 token"], place, decode_seconds(model))
    report(times)


def load(folder, device_map):
    return AutoModelForCausalLM.from_pretrained(folder, device_map=device_map, dtype="auto").eval()


def timed(act) -> float:
    gc.collect()
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


@torch.inference_mode()
def forward_seconds(model) -> float:
    ids = torch.arange(1, 513)[None].to(model.device)
    return timed(lambda: model(ids).logits)


@torch.inference_mode()
def decode_seconds(model, steps: int = 8) -> float:
    """The fastest of a few steps after a short prompt."""
    cache = model(torch.arange(1, 33)[None].to(model.device), use_cache=True).past_key_values
    token = torch.tensor([[5]], device=model.device)
    return min(timed(lambda: model(token, past_key_values=cache, use_cache=True)) for _ in range(steps))


def keep_fastest(row: dict[str, float], place: str, seconds: float) -> None:
    row[place] = min(row[place], seconds)


def report(times: dict[str, dict[str, float]]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; simgpu is simulated, its memory the CPU's")
    print(f"{'step':<22}{'cpu s':>9}{'simgpu s':>10}{'ratio':>8}{'target':>9}")
    for step, row in times.items():
        ratio = row["simgpu"] / row["cpu"]
        print(f"{step:<22}{row['cpu']:>9.4f}{row['simgpu']:>10.4f}{ratio:>8.2f}{'<= ' + str(TARGETS[step]):>9}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
