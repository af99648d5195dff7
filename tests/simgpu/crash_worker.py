"""Runs every snippet of SNIPPETS in a forked process and prints, as JSON lines, how each ended.

Started by test_never_crashes.py as its own process. A snippet ends with "works" or with the name of
an error and its first line; a process that died prints the signal instead.
"""

from __future__ import annotations

import copy
import gc
import io
import json
import os
import pickle
import sys
import tempfile
import threading
import warnings
import weakref

import numpy as np
import torch

from diag import Hardware, simgpu

D = "simgpu:1"
FOLDER = tempfile.gettempdir()


def new() -> torch.Tensor:
    return torch.arange(6.0, device=D).reshape(2, 3)


def bytes_of_it() -> torch.UntypedStorage:
    return new().untyped_storage()


def saved(value, **how):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **how)


def must_equal(value, device=D):
    assert value.device == torch.device(device), value.device
    assert torch.equal(value.detach().cpu(), new().cpu()), value


def busy_threads():
    def work():
        for _ in range(100):
            (new() @ new().t()).sum()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert torch.simgpu.memory_allocated(1) == 0


def safetensors_round():
    from safetensors.torch import load_file, save_file

    path = os.path.join(FOLDER, f"diag-crash-{os.getpid()}.safetensors")
    try:
        save_file({"a": new()}, path)
        must_equal(load_file(path, device=D)["a"])
        must_equal(load_file(path, device=0)["a"], "simgpu:0")
    finally:
        os.remove(path)


def resized(grown=True):
    x = new()
    x.resize_(3, 3) if grown else x.resize_(2)
    assert x.flatten()[:2].tolist() == [0, 1]


def memory_of_a_dead_owner():
    view = new()[1]
    gc.collect()
    assert view.tolist() == [3, 4, 5]


def weakly():
    reference = weakref.ref(x := new())
    assert reference() is x
    del x
    assert reference() is None


SNIPPETS = {
    # copies
    "deepcopy": lambda: must_equal(copy.deepcopy(new())),
    "deepcopy of a parameter": lambda: must_equal(copy.deepcopy(torch.nn.Parameter(new()))),
    "deepcopy of a module": lambda: copy.deepcopy(torch.nn.Linear(3, 2).to(D))(new()),
    "copy": lambda: must_equal(copy.copy(new())),
    "pickle": lambda: must_equal(pickle.loads(pickle.dumps(new()))),
    "pickle of a parameter": lambda: must_equal(pickle.loads(pickle.dumps(torch.nn.Parameter(new())))),
    "torch.save": lambda: must_equal(saved(new())),
    "torch.load to the cpu": lambda: must_equal(saved(new(), map_location="cpu"), "cpu"),
    "torch.load onto a device": lambda: must_equal(saved(new().cpu(), map_location=D)),
    "torch.load to another device": lambda: must_equal(saved(new(), map_location={D: "simgpu:0"}), "simgpu:0"),
    "safetensors": safetensors_round,
    "another process": lambda: torch.multiprocessing.get_context("spawn").SimpleQueue().put(new()),
    # storages
    "storage to list": lambda: bytes_of_it().tolist(),
    "storage clone": lambda: bytes_of_it().clone(),
    "storage deepcopy": lambda: copy.deepcopy(bytes_of_it()),
    "storage item": lambda: bytes_of_it()[3],
    "storage slice": lambda: bytes_of_it()[3:5],
    "storage set": lambda: bytes_of_it().__setitem__(0, 1),
    "storage fill": lambda: bytes_of_it().fill_(0),
    "storage new": lambda: bytes_of_it().new(),
    "storage resize": lambda: bytes_of_it().resize_(100),
    "storage of its own": lambda: torch.UntypedStorage(10, device=D).tolist(),
    "storage from values": lambda: torch.UntypedStorage([1, 2], device=D).tolist(),
    "storage typed": lambda: torch.TypedStorage(4, device=D, dtype=torch.float32).tolist(),
    "storage to the cpu": lambda: bytes_of_it().cpu(),
    "storage to another device": lambda: bytes_of_it().to(device="simgpu:0"),
    "storage pinned": lambda: bytes_of_it().pin_memory(),
    "storage shared": lambda: bytes_of_it().share_memory_(),
    "storage shared by descriptor": lambda: bytes_of_it()._share_fd_cpu_(),
    "storage byteswap": lambda: bytes_of_it().byteswap(torch.float32),
    "storage legacy": lambda: new().storage().tolist(),
    # shapes and memory
    "resize larger": resized,
    "resize a view": lambda: new()[0].resize_(100),
    "resize smaller": lambda: resized(grown=False),
    "set from storage": lambda: torch.empty(0, device=D).set_(bytes_of_it(), 0, (2,), (1,)),
    "set past the end": lambda: torch.empty(0, device=D).set_(bytes_of_it(), 0, (200,), (1,)),
    "set from the cpu": lambda: torch.empty(0, device=D).set_(torch.ones(3)),
    "set onto the cpu": lambda: torch.empty(0).set_(new()),
    "set to nothing": lambda: new().set_(),
    "strides past the end": lambda: new().as_strided((100,), (1,)),
    "a size no machine has": lambda: torch.empty((2**40, 2**40), device=D),
    "a view whose base died": memory_of_a_dead_owner,
    # out of PyTorch
    "print": lambda: repr(new()) + f"{new()[0, 0]:.2f}",
    "to list": lambda: new().tolist(),
    "numpy": lambda: new().numpy(),
    "numpy by force": lambda: new().numpy(force=True),
    "numpy function": lambda: np.add(new(), 1),
    "dlpack into torch": lambda: torch.from_dlpack(new()),
    "dlpack into numpy": lambda: np.from_dlpack(new()),
    "dlpack capsule": lambda: must_equal(torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(new()))),
    "dlpack capsule nobody took": lambda: (new().__dlpack__(), gc.collect()),
    "buffer": lambda: memoryview(new()),
    # bits and dtypes
    "bool": lambda: new() > 2,
    "bfloat16": lambda: new().bfloat16() + 1,
    "float8": lambda: new().to(torch.float8_e4m3fn).float(),
    "complex conjugate": lambda: (new() * 1j).conj().imag + 1,
    "no elements": lambda: torch.empty(0, 3, device=D) + 1,
    "no dimensions": lambda: torch.tensor(3, device=D) + 1,
    "sparse": lambda: new().to_sparse(),
    "sparse from the cpu": lambda: torch.eye(3).to_sparse().to(D),
    "quantized": lambda: torch.quantize_per_tensor(new(), 0.1, 0, torch.qint8),
    # ways to call
    "out": lambda: must_equal(torch.add(new(), 0, out=torch.empty(0, device=D))),
    "out on the cpu": lambda: torch.add(new(), 0, out=torch.empty(0)),
    "out on meta": lambda: torch.add(new(), 0, out=torch.empty(0, device="meta")),
    "in place": lambda: must_equal(new().add_(1).sub_(1)),
    "vmap": lambda: must_equal(torch.vmap(lambda x: x * 1)(new())),
    "forward gradient": lambda: must_equal(torch.func.jvp(lambda x: x * 2, (new(),), (new(),))[1] / 2),
    "fake tensors": lambda: torch._subclasses.FakeTensorMode().from_tensor(new()) + 1,
    "inference mode": lambda: torch.inference_mode()(lambda: must_equal(new() + 0))(),
    "threads": busy_threads,
    "weak reference": weakly,
    "convolution": lambda: torch.nn.Conv2d(3, 4, 3).to(D)(torch.ones(1, 3, 8, 8, device=D)).sum().item(),
    "recurrent layer": lambda: torch.no_grad()(torch.nn.LSTM(3, 4).to(D))(torch.ones(2, 1, 3, device=D)),
    "pinned": lambda: torch.ones(3).pin_memory().to(D, non_blocking=True),
    "streams and events": lambda: torch.Event(device=D).record(torch.accelerator.current_stream()),
    "generator": lambda: torch.Generator(device=D),
    "another accelerator": lambda: new().to("xpu"),
}


def main() -> None:
    warnings.simplefilter("ignore")
    simgpu.activate(Hardware.parse("2x1GiB"))
    for name, snippet in SNIPPETS.items():
        print(json.dumps({"name": name, "ended": how_it_ends(snippet)}), flush=True)


def how_it_ends(snippet) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, in_child(snippet).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else text


def in_child(snippet) -> str:
    sys.stderr = io.StringIO()
    try:
        snippet()
        gc.collect()
        return "works"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"[:2000]


if __name__ == "__main__":
    main()
