"""A false alarm is as bad as a miss: nothing is found on a healthy model."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from broken_models import offloaded, plain
from torch import nn

from diag import LoadSpec, load
from diag.diagnosis.engine import diagnose
from diag.models.table import placement

pytestmark = pytest.mark.usefixtures("real_machine")


@pytest.mark.parametrize("device_map", ["none", "cpu", "disk", "offload"])
def test_no_map_of_any_sample_raises_an_alarm(any_sample, device_map):
    assert list(diagnose(load(LoadSpec(any_sample, device_map=device_map)).model)) == []


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4", "nf4-double"])
def test_no_quantization_of_any_sample_raises_an_alarm(any_sample, quantization, load_quantized):
    assert list(diagnose(load_quantized(any_sample, quantization))) == []


@pytest.mark.parametrize("device_map", ["auto", "offload", "sequential"])
def test_no_simulated_gpus_raise_an_alarm(device_map):
    assert list(diagnose(load(LoadSpec("tiny", device_map=device_map, hardware="2x300MiB+8GiB")).model)) == []


def _cpu_offload() -> nn.Module:
    from accelerate import cpu_offload

    return cpu_offload(plain(), execution_device="cpu")


def _logging_wrapper() -> nn.Module:
    def logged(forward):
        return lambda *args, **kwargs: forward(*args, **kwargs)

    model = offloaded()
    for module in model.modules():
        if "forward" in module.__dict__:
            module.forward = logged(module.forward)
    return model


def _second_hook() -> nn.Module:
    from accelerate.hooks import ModelHook, add_hook_to_module

    model = offloaded()
    add_hook_to_module(model.model.layers[5].mlp.up_proj, ModelHook(), append=True)
    return model


def _trained() -> nn.Module:
    model = plain()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.abs().mean())
    return model.train()


def _with_adapter() -> nn.Module:
    import peft

    return peft.get_peft_model(plain(), peft.LoraConfig(r=2, target_modules=["q_proj"]))


_VARIANTS = {
    "half": lambda: plain().half(),
    "custom": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
    **{make.__name__: make for make in (_cpu_offload, _logging_wrapper, _second_hook, _trained, _with_adapter)},
}


@pytest.mark.parametrize("make", _VARIANTS.values(), ids=_VARIANTS)
def test_healthy_variants_raise_no_alarm(make):
    assert list(diagnose(make())) == []


def test_the_model_is_left_as_it_was_found():
    model = offloaded()
    before = placement(model)
    state = copy.deepcopy({k: v for k, v in model.state_dict().items() if not v.is_meta})
    diagnose(model)
    assert placement(model).equals(before)
    assert all(torch.equal(state[name], model.state_dict()[name]) for name in state)


def test_a_model_is_freed_after_its_findings_are_dropped():
    model = offloaded()
    alive = weakref.ref(model)
    found = diagnose(model)
    one = list(found)
    del model, found
    gc.collect()
    assert alive() is None
    assert one == []


def test_the_random_state_of_the_caller_is_left_alone():
    model = plain()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    diagnose(model)
    assert torch.equal(torch.rand(2), expected)


class _Wrapper(nn.Module):
    """A user's own model around one that transformers loaded."""

    def __init__(self, inner: nn.Module, own: nn.Module):
        super().__init__()
        self.inner, self.own = inner, own


def test_an_own_layer_beside_an_offloaded_model_is_no_exchanged_module():
    assert list(diagnose(_Wrapper(offloaded(), nn.Linear(4, 4)))) == []


def test_an_own_head_added_to_an_offloaded_model_is_no_exchanged_module():
    model = offloaded()
    model.value_head = nn.Linear(4, 1)
    assert "submodule-replaced" not in [one.cause for one in diagnose(model)]


def test_an_own_layer_left_on_meta_was_never_filled():
    found = diagnose(_Wrapper(plain("tiny-bert"), nn.Linear(4, 4, device="meta")))
    assert [(one.cause, one.tensors) for one in found] == [("never-materialised", ("own.weight", "own.bias"))]
