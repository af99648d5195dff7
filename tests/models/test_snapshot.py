"""A model is read once, and what can't be read is said instead of raised."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch.nn.utils import parametrizations

import diag
from diag.models.entries import TensorReader
from diag.models.hooks import HookIndex
from diag.models.snapshot import take

_WALKS_OF_TORCH = ("parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules")


@pytest.fixture
def walks(monkeypatch):
    """How often a model was walked: into a snapshot, into a hook index, or by torch's own methods called from diag."""
    counted = Counter()

    def counting(owner, name, what):
        original = getattr(owner, name)

        def counted_call(self, *args, **kwargs):
            if owner is not nn.Module or "/diag/" in sys._getframe(1).f_code.co_filename:
                counted[what] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, counted_call)

    counting(TensorReader, "__init__", "snapshots")
    counting(HookIndex, "__init__", "hook indexes")
    for name in _WALKS_OF_TORCH:
        counting(nn.Module, name, name)
    return counted


def plain_model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


def call_of(model: nn.Module) -> Exception:
    """The error of a call with an input on meta."""
    with pytest.raises(Exception, match="meta") as caught:
        model(torch.ones(1, 2, device="meta"))
    return caught.value


@pytest.mark.parametrize(
    "ask",
    [diag.placement, diag.diagnose, diag.require_materialised, diag.input_device, diag.materialise,
     lambda model: diag.diagnose(model, error=call_of(model))],
    ids=["placement", "diagnose", "require_materialised", "input_device", "materialise", "diagnose_error"],
)  # fmt: skip
def test_a_model_is_walked_once(walks, ask):
    model = plain_model()
    add_hook_to_module(model[2], AlignDevicesHook("cpu"))
    ask(model)
    assert walks == {"snapshots": 1, "hook indexes": 1}


def test_the_count_would_show_a_second_walk(walks):
    model = plain_model()
    take(model)
    take(model)
    exec(compile("model.named_parameters()", "/somewhere/diag/facts.py", "exec"), {"model": model})
    assert walks == {"snapshots": 2, "hook indexes": 2, "named_parameters": 1}


def test_a_snapshot_is_taken_as_it_is(walks):
    seen = take(plain_model())
    assert take(seen) is seen and walks["snapshots"] == 1


def test_a_snapshot_changes_nothing_and_holds_the_live_tensors():
    model = plain_model()
    before = {name: (id(p), dict(p.__dict__)) for name, p in model.named_parameters()}
    seen = take(model)
    assert {e.name: (id(e.tensor), dict(e.tensor.__dict__)) for e in seen.entries} == before
    assert list(seen.modules) == ["", "0", "1", "2"] and seen.paths[id(model[2])] == "2"


# --- what can't be read --------------------------------------------------------------------------------------------


class Raising(nn.Linear):
    """A layer whose methods and attributes raise, as half-built or lazy ones do."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    @property
    def hf_device_map(self):
        raise RuntimeError("the map is not made yet")

    @property
    def all_tied_weights_keys(self):
        raise KeyError("ties")

    @property
    def config(self):
        raise OSError("no config here")

    def get_input_embeddings(self):
        raise NotImplementedError


def test_a_model_whose_attributes_raise_is_diagnosed_and_what_was_skipped_is_said():
    found = diag.diagnose(Raising())
    assert found.healthy
    said = "\n".join(found.looked_at)
    assert "not looked at: hf_device_map of Raising (RuntimeError: the map is not made yet)" in said
    assert "OSError: no config here" in said and "KeyError" in said


@pytest.mark.parametrize("error", [NotImplementedError(), ValueError("two embeddings"), ZeroDivisionError()])
def test_get_input_embeddings_that_raises_does_not_end_a_diagnosis(tiny_path, error):
    from transformers import LlamaForCausalLM

    class Model(LlamaForCausalLM):
        def get_input_embeddings(self):
            raise error

    model = Model.from_pretrained(tiny_path)
    model.all_tied_weights_keys = {}
    model.config.tie_word_embeddings = True
    found = diag.diagnose(model)
    assert found.healthy
    assert any(line.startswith("not looked at: whether tied tensors are alike") for line in found.looked_at)
    assert diag.input_device(model) == torch.device("cpu")


class Odd(torch.Tensor):
    """A wrapper of a tensor, as quantizers and DTensor make them, whose arithmetic is its own affair."""

    @staticmethod
    def __new__(cls, inner, **kwargs):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner, broken=()):
        self.inner, self.broken = inner, broken

    def __tensor_flatten__(self):
        if "flatten" in self.broken:
            raise RuntimeError("not today")
        return ["inner"], None

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("do not ask")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} has no kernel here")


def with_weight(weight) -> nn.Module:
    model = nn.Linear(2, 2, bias=False)
    del model._parameters["weight"]
    model._parameters["weight"] = weight
    return model


def test_a_tensor_class_that_computes_by_itself_is_counted_by_what_it_wraps_and_not_sampled():
    packed = with_weight(Odd(torch.ones(2, 2, dtype=torch.int8)))
    table = diag.placement(packed)
    assert table[["shape", "nbytes", "numel", "backing"]].values.tolist() == [[(2, 2), 4, 4, "resident"]]
    found = diag.diagnose(packed)
    assert found.healthy and any("a Odd computes by itself" in line for line in found.looked_at)


def test_a_tensor_whose_size_can_not_be_told_has_a_row_that_says_so():
    model = nn.Sequential(with_weight(Odd(torch.ones(2, 2), broken=("flatten",))), nn.LazyLinear(3))
    table = diag.placement(model)
    assert list(table.name) == ["0.weight", "1.weight", "1.bias"] and set(table.nbytes) == {0}
    assert table["shape"].isna().all() and len(table.attrs["unreadable"]) == 3
    found = diag.diagnose(model)
    assert found.healthy and any("0.weight (RuntimeError: not today)" in line for line in found.looked_at)


def test_distributed_tensors_are_read_without_asking_other_processes():
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = with_weight(nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])))
        table = diag.placement(model)
        found = diag.diagnose(model)
        assert take(model).wrappers == ("DTensor",)
    finally:
        distributed.destroy_process_group()
    assert table[["shape", "nbytes", "device"]].values.tolist() == [[(4, 2), 32, "cpu"]]
    assert found.healthy and any("a DTensor computes by itself" in line for line in found.looked_at)


def test_parametrized_scripted_and_traced_modules_are_read():
    parametrized = parametrizations.weight_norm(nn.Linear(2, 2))
    assert [e.name for e in take(parametrized).entries if e.put_in] == ["parametrizations.weight.original0",
                                                                     "parametrizations.weight.original1"]  # fmt: skip
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    traced = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    for model, count in ((parametrized, 3), (scripted, 7), (traced, 2)):
        assert len(diag.placement(model)) == count
        found = diag.diagnose(model)
        assert found.healthy and not any("not looked at" in line for line in found.looked_at)


def test_a_module_that_holds_itself_and_one_that_is_deep_are_walked_to_their_ends():
    loop = nn.Linear(2, 2)
    loop.register_module("again", loop)
    assert list(diag.placement(loop).name) == ["weight", "bias"]
    deep = nn.Linear(1, 1)
    for _ in range(1_500):
        deep = nn.Sequential(deep)
    assert len(take(deep).entries) == 2


def test_a_hook_and_a_store_that_raise_are_named_and_nothing_is_asserted():
    class Store(dict):
        @property
        def all_keys(self):
            raise OSError("the folder is gone")

    model = nn.Linear(2, 2, device="meta")
    add_hook_to_module(model, AlignDevicesHook("cpu", offload=True, weights_map={"weight": torch.ones(2, 2)}))
    model._hf_hook.weights_map = Store()
    found = diag.diagnose(model)
    assert any("the weights_map of the hook on the model (OSError" in line for line in found.looked_at)
    assert {e.backing.undecided for e in take(model).entries} == {True}


# --- where inputs go ------------------------------------------------------------------------------------------------


def on(device, **hook) -> nn.Module:
    module = nn.Linear(2, 2, device=device)
    if hook:
        module._hf_hook = AlignDevicesHook(**hook)
    return module


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(on("cpu"), on("cpu")), "cpu"),
        (nn.Sequential(on("cpu"), on("meta", execution_device="meta")), "cpu"),
        (nn.Sequential(on("meta", execution_device="meta"), on("meta")), "cpu"),
        (nn.Sequential(on("meta", execution_device="xpu:1"), on("cpu")), "xpu:1"),
        (nn.Sequential(on("cpu"), on("meta", execution_device="xpu:1")), "cpu"),
        (nn.Sequential(on("meta", execution_device=torch.device("cuda", 1))), "cuda:1"),
        (nn.Sequential(nn.ReLU()), "cpu"),
    ],
)  # fmt: skip
def test_inputs_go_to_where_the_first_module_with_tensors_runs_and_never_to_meta(model, expected):
    from diag.proving import probing

    assert str(diag.input_device(model)) == expected
    assert probing.input_device is diag.input_device


def test_inputs_go_to_the_hook_of_the_model_itself_before_that_of_a_part():
    model = nn.Sequential(on("meta", execution_device="xpu:1"), on("cpu"))
    model._hf_hook = AlignDevicesHook("xpu:0", io_same_device=True)
    assert str(diag.input_device(model)) == "xpu:0"
