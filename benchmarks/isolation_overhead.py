"""What a process per cell costs: the same small load, isolated and in one process, side by side.

    python benchmarks/isolation_overhead.py [--cells 20]

Prints seconds per cell for both, their difference and their ratio. The first cell also pays for the supervisor's
imports, so it is shown by itself and left out of the rest. Exits with 1 when a cell costs more than 0.15 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

from diag.sweep.isolate import pool as isolate

LIMIT_SECONDS = 0.15


def save_tiny_llama(folder: str) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, vocab_size=512
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def load(folder: str) -> int:
    """The cell: load the model, run it once, return its number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", trust_remote_code=False)
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    return model.num_parameters()


def together(folder: str, cells: int) -> list[float]:
    times = []
    for _ in range(cells):
        began = time.perf_counter()
        load(folder)
        times.append(time.perf_counter() - began)
    return times


def isolated(folder: str, cells: int) -> list[float]:
    times, began = [], time.perf_counter()
    for ended in isolate.run(isolate.Task(str(i), "isolation_overhead:load", folder) for i in range(cells)):
        if ended.death is not None:
            raise SystemExit(ended.death.text)
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20, help="cells to run each way (default 20)")
    cells = parser.parse_args().cells
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_llama(folder)
        first_alone, *alone = together(folder, cells)
        first_apart, *apart = isolated(folder, cells)
    one, other = statistics.median(alone), statistics.median(apart)
    print(f"{'':24}{'one process':>14}{'isolated':>14}{'difference':>14}{'ratio':>9}")
    for name, a, b in (("first cell, s", first_alone, first_apart), ("later cells, median s", one, other)):
        print(f"{name:24}{a:14.3f}{b:14.3f}{b - a:14.3f}{b / a:9.1f}")
    print(f"Isolation costs {other - one:.3f} s a cell after the first; the limit is {LIMIT_SECONDS} s.")
    return int(other - one > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
