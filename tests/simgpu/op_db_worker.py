"""Runs PyTorch's operator database on simulated tensors and on the CPU; one JSON line per operation.

Started by test_operators.py as its own process: `python op_db_worker.py START`. The line that
begins an operation is written before it runs, so the reader knows what a dead process died of.
"""

from __future__ import annotations

import json
import sys
import warnings

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

from diag import Hardware, simgpu

DEVICE = "simgpu:1"
SAMPLES = 12  # per operation: enough for its shapes, keywords and broadcasting


def main(start: int) -> None:
    warnings.simplefilter("ignore")
    simgpu.activate(Hardware.parse("2x2GiB"))
    for number, info in enumerate(op_db[start:], start):
        name = f"{info.name}.{info.variant_test_name}" if info.variant_test_name else info.name
        say(number=number, name=name)
        outcome, text = compare(info)
        say(number=number, name=name, outcome=outcome, text=text)


def say(**line) -> None:
    print(json.dumps(line), flush=True)


def compare(info) -> tuple[str, str]:
    """`agrees`, `differs`, `not repeatable` (on the CPU either), `refused` (an error only here) or `no samples`."""
    dtypes = info.supported_dtypes("cpu")
    dtype = next((d for d in (torch.float32, torch.int64, torch.bool, torch.complex64) if d in dtypes), None)
    seen = 0
    try:
        for sample in info.sample_inputs("cpu", dtype, requires_grad=False):
            here, error = attempt(info.op, sample, "cpu")
            if error is None:
                there, error = attempt(info.op, sample, DEVICE)
                if error is not None:
                    return "refused", f"{type(error).__name__}: {error}"[:300]
                if problem := difference(here, there):
                    again, _ = attempt(info.op, sample, "cpu")
                    return ("not repeatable" if difference(here, again) else "differs"), problem
                seen += 1
            if seen >= SAMPLES:
                break
    except Exception as error:  # the database itself could not make a sample
        return "no samples", repr(error)[:200]
    return ("agrees", str(seen)) if seen else ("no samples", "")


def attempt(op, sample, device):
    """The operation's answer, or its error; both places get copies and the same seed."""
    given = (sample.input, *sample.args), sample.kwargs
    arguments, keywords = tree_map(lambda value: moved(value, device), given)
    torch.manual_seed(0)
    try:
        return op(*arguments, **keywords), None
    except Exception as error:
        return None, error


def moved(value, device):
    if isinstance(value, torch.Tensor):
        return value.detach().clone().to(device)
    if isinstance(value, torch.device) or value == "cpu":
        return torch.device(device)
    return value


def difference(here, there) -> str:
    """Empty, or the first way in which two answers differ; uninitialised memory is not compared."""
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True, "check_stride": False}
    try:
        torch.testing.assert_close(tree_map(to_cpu, there), tree_map(to_cpu, here), **exactly)
    except (AssertionError, ValueError) as error:
        return str(error)[:300]
    return ""


def to_cpu(value):
    return value.cpu() if isinstance(value, torch.Tensor) else value


if __name__ == "__main__":
    main(int(sys.argv[1]))
