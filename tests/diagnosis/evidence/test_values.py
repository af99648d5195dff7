"""Which values are wrong, and which are what their user made of them."""

from __future__ import annotations

import copy

import pytest
import torch
from broken_models import plain, trained
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

import diag
from diag import LoadSpec, load
from diag.diagnosis.engine import diagnose

pytestmark = pytest.mark.usefixtures("real_machine")


def _said(model) -> list[tuple[str, str]]:
    return [(one.cause, one.certainty) for one in diagnose(model)]


def _with_keys(folder, rename) -> nn.Module:
    """The model of a checkpoint whose keys were renamed."""
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
        shard.unlink()
    save_file({rename(k): v for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return load(LoadSpec(str(folder), device_map="none")).model


# --- lost ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_whose_keys_all_have_a_prefix_fills_nothing(tiny_copy):
    model = _with_keys(tiny_copy, lambda key: f"module.{key}")
    found = diagnose(model)
    assert _said(model) == [("uninitialised-values", "shown")]
    assert {n for n, p in model.named_parameters() if p.dim() == 2} <= set(found[0].tensors)
    assert "other names" in found[0].because[0]


def test_most_keys_renamed_are_found_as_well(tiny_copy):
    model = _with_keys(tiny_copy, lambda key: key.replace(".mlp.", ".ffn.").replace("self_attn", "attn"))
    found = diagnose(model)
    assert _said(model) == [("uninitialised-values", "shown")]
    assert all(".mlp." in name or ".self_attn." in name for name in found[0].tensors)


def test_a_model_filled_with_fresh_memory_is_found_before_its_lost_tie():
    filled = plain("tiny-gpt2")
    with torch.device("meta"):
        model = type(filled)(copy.deepcopy(filled.config))
    model.config._name_or_path = ""
    model.to_empty(device="cpu")
    with torch.no_grad():  # what memory holds is up to the allocator: here it is made certain
        for parameter in model.parameters():
            parameter.data = torch.full_like(parameter, float("nan")) if parameter.dim() > 1 else parameter * 0
    found = diagnose(model)
    assert (found[0].cause, found[0].certainty) == ("uninitialised-values", "shown")
    assert {name for name, _ in model.named_parameters()} <= set(found[0].tensors)
    assert "tied-weights-split" not in [one.cause for one in found]


def test_a_zeroed_expert_and_zeroed_rows_are_found():
    model = plain("tiny-mixtral")
    name, weight = [(n, p) for n, p in model.named_parameters() if ".experts." in n][-1]
    weight.data[: 1 if weight.dim() == 3 else weight.shape[0] // 4].zero_()
    found = diagnose(model)
    assert [(one.cause, one.certainty, one.tensors) for one in found] == [("uninitialised-values", "likely", (name,))]
    model = plain("tiny-gpt2")
    model.transformer.h[1].attn.c_attn.weight.data[:16].zero_()
    assert _said(model) == [("uninitialised-values", "likely")]


def test_a_healthy_answer_says_that_values_were_sampled():
    assert any("verify_weights compares every value" in text for text in diagnose(plain()).looked_at)


# --- meant --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: prune.l1_unstructured(layers[0].mlp.up_proj, "weight", 0.3),
        lambda layers: parametrizations.weight_norm(layers[0].mlp.up_proj),
        lambda layers: nn.utils.parametrize.register_parametrization(layers[0].mlp.up_proj, "weight", nn.Identity()),
        lambda layers: layers.__delitem__(1),
    ],
    ids=["pruned", "normed", "parametrized", "layer dropped"],
)
def test_what_the_user_did_to_a_layer_raises_no_alarm(change):
    model = plain()
    change(model.model.layers)
    assert list(diagnose(model)) == []


def _student() -> nn.Module:
    model = plain("tiny-bert")
    layers = model.base_model.encoder.layer
    model.base_model.encoder.layer = nn.ModuleList([layers[0], copy.deepcopy(layers[-1])])
    return model


def _trained_far() -> nn.Module:
    return trained(plain("tiny-gpt2").train(), torch.tensor([[5, 17, 42, 99, 7, 23]]), steps=12, rate=1e-2)


def _merged() -> nn.Module:
    model = plain()
    weight = model.model.layers[0].self_attn.v_proj.weight
    torch.manual_seed(0)
    weight.data += torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1]) * weight.std()
    return model


def _own_buffers() -> nn.Module:
    model = nn.Linear(4, 4)
    model.register_buffer("best_loss", torch.tensor(float("inf")), persistent=False)
    model.lowest = nn.Parameter(torch.full((3,), float("-inf")), requires_grad=False)
    return model


@pytest.mark.parametrize("make", [_student, _trained_far, _merged, _own_buffers])
def test_what_the_user_did_to_the_values_raises_no_alarm(make):
    assert list(diagnose(make())) == []


_METHODS = {
    "ia3": ("IA3Config", {"feedforward_modules": []}),
    "vera": ("VeraConfig", {"r": 4}),
    "loha": ("LoHaConfig", {"r": 4}),
    "lokr": ("LoKrConfig", {"r": 4}),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 4}),
    "adalora": ("AdaLoraConfig", {"total_step": 10}),
    "norms": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "saved": ("LoraConfig", {"modules_to_save": ["lm_head"]}),
}


@pytest.mark.parametrize("method", _METHODS)
def test_no_kind_of_adapter_is_taken_for_values_that_were_notplain(method):
    import peft

    name, options = _METHODS[method]
    model = peft.get_peft_model(plain(), getattr(peft, name)(**{"target_modules": ["q_proj"], **options}))
    assert list(diagnose(model)) == []
    assert diag.verify_weights(model).empty


def test_a_new_head_is_likely_not_loaded_until_it_was_trained(bert_path):
    from transformers import BertForTokenClassification

    model = BertForTokenClassification.from_pretrained(bert_path, num_labels=7, ignore_mismatched_sizes=True)
    assert _said(model) == [("uninitialised-values", "likely")]
    assert _said(trained(model, torch.tensor([[1, 2, 3]]), steps=8, rate=1e-3)) == []


def test_a_model_built_from_the_config_alone_is_possible_and_not_shown(tiny_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_path))
    assert _said(model) == [("uninitialised-values", "possible")]
    assert "from the config alone" in diagnose(model)[0].because[0]
