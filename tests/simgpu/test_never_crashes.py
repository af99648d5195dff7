"""Nothing that Python can do to a simulated tensor ends the process: it works or raises one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from interpreter import python

HERE = Path(__file__).parent
REFUSED = {  # the first words of the error; everything else works
    "storage resize": "NotImplementedError: a storage on simgpu:1 keeps its 24 bytes",
    "storage pinned": "TypeError: cannot pin",
    "storage shared by descriptor": "RuntimeError: _share_fd_: only available on CPU",
    "set past the end": "RuntimeError: Trying to resize storage that is not resizable",
    "set from the cpu": "RuntimeError: Attempted to set the storage of a tensor on device",
    "set onto the cpu": "RuntimeError: Attempted to set the storage of a tensor on device",
    "strides past the end": "RuntimeError: setStorage",
    "a size no machine has": "OutOfMemoryError: simgpu out of memory",
    "numpy": "TypeError: can't convert simgpu:1 device type tensor to numpy. Use Tensor.cpu()",
    "numpy function": "TypeError: can't convert simgpu:1 device type tensor to numpy. Use Tensor.cpu()",
    "dlpack into torch": "ValueError: Unknown device type simgpu for Dlpack",
    "dlpack into numpy": "RuntimeError: Unsupported device in DLTensor",
    "buffer": "TypeError",
    "sparse": "NotImplementedError: simgpu holds dense tensors only",
    "sparse from the cpu": "NotImplementedError: simgpu holds dense tensors only",
    "quantized": "NotImplementedError: simgpu holds dense tensors only",
    "out on the cpu": "RuntimeError: Expected all tensors to be on the same device",
    "out on meta": "RuntimeError: Attempting to copy from device simgpu:1 to device meta",
    "another accelerator": "AssertionError",
}


@pytest.fixture(scope="module")
def endings() -> dict[str, str]:
    run = python(HERE / "crash_worker.py", timeout=500)
    assert run.returncode == 0, run.stderr[-2000:]
    return {line["name"]: line["ended"] for line in map(json.loads, run.stdout.splitlines())}


def test_every_snippet_ends_by_itself(endings):
    assert len(endings) > 60
    assert {name: end for name, end in endings.items() if end.startswith("signal") or not end} == {}


def test_what_is_refused_is_refused_in_words_and_the_rest_works(endings):
    unexpected = {name: end for name, end in endings.items() if not end.startswith(REFUSED.get(name, "works"))}
    assert unexpected == {}
    assert set(REFUSED) <= set(endings)


BEGIN = """
import torch
from diag import Hardware, simgpu
simgpu.activate(Hardware.parse("2x1GiB"))
x = torch.ones(3, device="simgpu:1")
"""
EXITS = {
    "with tensors alive": ("", 0),
    "with a graph alive": ("y = (torch.ones(3, device='simgpu:0', requires_grad=True) * 2).sum()", 0),
    "after a backward": ("y = torch.ones(3, device='simgpu:0', requires_grad=True); y.sum().backward(); g = y.grad", 0),
    "with a cycle": ("class A: pass\na = A(); a.a, a.x = a, x", 0),
    "computing in a destructor": ("class A:\n    def __del__(self): (self.x + 1).sum()\na = A(); a.x = x", 0),
    "computing at exit": ("import atexit; atexit.register(lambda: (x + 1).sum())", 0),
    # A daemon thread that computes while the interpreter ends aborts plain CPU tensors too (torch 2.13): PyTorch's own.
    "through sys.exit": ("import sys; sys.exit(5)", 5),
    "in a forked child": ("import os\npid = os.fork()\n(x + 1).sum()\nif pid: assert os.waitpid(pid, 0)[1] == 0", 0),
}


@pytest.mark.parametrize(("code", "expected"), EXITS.values(), ids=EXITS)
def test_the_interpreter_exits_cleanly(code, expected):
    run = python("-c", BEGIN + code)
    assert run.returncode == expected, run.stderr[-2000:]
