"""The decision rule: which meta tensors are offloaded, and which have nobody's data behind them."""

from __future__ import annotations

import functools
import logging
import types

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module, remove_hook_from_submodules

import diag
from diag.models.backing import Absence, Backing
from diag.models.forwards import Reach, reaches_wrapper
from diag.models.snapshot import take

LAYER = "model.layers.5."


@pytest.fixture
def offloaded():
    """tiny with its last blocks on disk; a fresh one for each test, since tests break it."""
    return diag.load(diag.LoadSpec("tiny", device_map="offload")).model


def missing(model) -> set[str]:
    table = diag.placement(model)
    return set(table.name[table.backing == "none"])


def backing_of(model) -> dict[str, Backing]:
    return {entry.name: entry.backing for entry in take(model).entries if entry.is_meta}


def last_block(model):
    return model.model.layers[5]


def test_a_healthy_offloaded_model_misses_nothing(offloaded):
    table = diag.placement(offloaded)
    assert set(table.backing) == {"resident", "offloaded"}
    assert missing(offloaded) == set()


def test_an_appended_hook_leaves_the_weights_backed(offloaded):
    for module in last_block(offloaded).modules():
        if hasattr(module, "_hf_hook"):
            add_hook_to_module(module, ModelHook(), append=True)
    assert missing(offloaded) == set()


def test_a_parent_hook_that_places_submodules_covers_its_children(tiny_path, tmp_path):
    from accelerate import cpu_offload
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_path)
    cpu_offload(model, torch.device("cpu"), preload_module_classes=["LlamaDecoderLayer"])
    q = model.model.layers[0].self_attn.q_proj
    assert q.weight.is_meta and not hasattr(q, "_hf_hook")
    assert missing(model) == set()


def test_removed_hooks_strand_every_offloaded_weight(offloaded):
    stranded = set(diag.placement(offloaded).query("backing == 'offloaded'").name)
    remove_hook_from_submodules(offloaded)
    # accelerate puts nothing back for weights that came from disk: their original device was already meta.
    assert missing(offloaded) == stranded != set()


def test_a_hook_that_does_not_offload_brings_nothing_back(offloaded):
    module = last_block(offloaded).mlp.up_proj
    module._hf_hook = AlignDevicesHook(execution_device="cpu", offload=False)
    assert missing(offloaded) == {LAYER + "mlp.up_proj.weight"}


def test_a_key_that_the_store_does_not_have_is_missing(offloaded):
    module = last_block(offloaded).mlp.up_proj
    store = module._hf_hook.weights_map.dataset
    store.all_keys.remove(LAYER + "mlp.up_proj.weight")
    assert missing(offloaded) == {LAYER + "mlp.up_proj.weight"}
    assert backing_of(offloaded)[LAYER + "mlp.up_proj.weight"].reason == Absence.NOT_IN_STORE


def test_a_file_that_is_gone_backs_nothing(tiny_copy):
    model = diag.load(diag.LoadSpec(str(tiny_copy), device_map="disk")).model
    assert missing(model) == set()
    gone = next(iter(tiny_copy.glob("model-*.safetensors")))
    gone.unlink()
    reasons = {b.reason for b in backing_of(model).values() if b.kind == "none"}
    assert reasons == {Absence.FILE_MISSING}


def test_a_store_of_meta_tensors_backs_nothing():
    from accelerate import cpu_offload

    model = torch.nn.Sequential(torch.nn.Linear(2, 2, device="meta"))
    cpu_offload(model, torch.device("cpu"), state_dict=dict(model.state_dict()))
    assert {b.reason for b in backing_of(model).values()} == {Absence.STORE_IS_META}


def test_asking_reads_no_tensor_from_the_store(offloaded, monkeypatch):
    from accelerate.utils.offload import OffloadedWeightsLoader

    def refuse(self, key):
        raise AssertionError(f"{key} was read")

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", refuse)
    assert missing(offloaded) == set()


# --- (c): does forward still reach the wrapper? -----------------------------------------------------------------------


def plain_forward(self, x):
    return torch.nn.functional.linear(x, self.weight, self.bias)


def replace_by_closure_over_weight(module):
    weight = module.weight
    module.forward = lambda x: torch.nn.functional.linear(x, weight)


BYPASSES = {
    "method": lambda module: setattr(module, "forward", types.MethodType(plain_forward, module)),
    "original": lambda module: setattr(module, "forward", module._old_forward),
    "deleted": lambda module: delattr(module, "forward"),
    "closure over the weight": replace_by_closure_over_weight,
}


@pytest.mark.parametrize("bypass", BYPASSES.values(), ids=BYPASSES)
def test_a_replaced_forward_leaves_the_weight_without_data(offloaded, bypass):
    bypass(last_block(offloaded).mlp.up_proj)
    assert missing(offloaded) == {LAYER + "mlp.up_proj.weight"}
    assert backing_of(offloaded)[LAYER + "mlp.up_proj.weight"].reason == Absence.FORWARD_BYPASSED


KEPT = {}


class Timer:
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def wrap_in_closure(module):
    inner = module.forward
    module.forward = lambda *args, **kwargs: inner(*args, **kwargs)


def wrap_with_wraps(module):
    inner = module.forward

    @functools.wraps(inner)
    def logged(*args, **kwargs):
        logging.getLogger(__name__).debug("forward")
        return inner(*args, **kwargs)

    module.forward = logged


def wrap_in_partial(module):
    inner = module.forward
    module.forward = functools.partial(lambda f, *a, **k: f(*a, **k), inner)


def wrap_through_an_attribute(module):
    module.kept_forward = module.forward
    module.forward = types.MethodType(lambda self, *a, **k: self.kept_forward(*a, **k), module)


def wrap_through_a_global(module):
    KEPT["forward"] = module.forward
    module.forward = lambda *a, **k: KEPT["forward"](*a, **k)


def wrap_twice(module):
    wrap_in_closure(module)
    wrap_with_wraps(module)


WRAPS = [wrap_in_closure, wrap_with_wraps, wrap_in_partial, wrap_through_an_attribute, wrap_twice]
WRAPS += [wrap_through_a_global, lambda module: setattr(module, "forward", Timer(module.forward))]


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_wrapper_that_calls_on_is_healthy_and_the_answer_stays(offloaded, wrap):
    ids = torch.tensor([[1, 2, 3]])
    before = offloaded(ids).logits
    for module in last_block(offloaded).modules():
        if hasattr(module, "_hf_hook"):
            wrap(module)
    assert missing(offloaded) == set()
    if wrap is not wrap_through_a_global:  # one global for many modules can't run, and need not
        assert torch.equal(offloaded(ids).logits, before)


def test_what_c_code_calls_is_undecided_and_not_asserted(offloaded):
    import operator

    module = last_block(offloaded).mlp.up_proj
    module.forward = operator.methodcaller("something")
    assert reaches_wrapper(module) is Reach.UNDECIDED
    assert missing(offloaded) == set()
    assert backing_of(offloaded)[LAYER + "mlp.up_proj.weight"].undecided


def test_a_module_without_hooks_does_not_reach_one():
    assert reaches_wrapper(torch.nn.Linear(2, 2)) is Reach.NO
