"""Broken states of every sample: the cause comes first and the culprits are named, by state alone."""

from __future__ import annotations

import types

import pandas as pd
import pytest
import torch
from broken_models import offloaded, plain, without_hooks, without_key
from torch import nn

from diag import LoadSpec, load
from diag.diagnosis.engine import diagnose
from diag.models.table import PLACEMENT_COLUMNS


def _stranded(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.is_meta}


def _owners_on_meta(model: nn.Module) -> list[str]:
    return [path for path, m in model.named_modules() if any(p.is_meta for p in m.parameters(recurse=False))]


def test_removed_hooks_are_named_with_every_stranded_weight(any_sample):
    model = without_hooks(offloaded(any_sample))
    found = diagnose(model)
    assert (found[0].cause, found[0].certainty) == ("hooks-removed", "shown")
    assert _stranded(model) <= set(found[0].tensors)


def test_one_removed_hook_is_found_among_many(any_sample):
    from accelerate.hooks import remove_hook_from_module

    model = offloaded(any_sample)
    path = _owners_on_meta(model)[2]
    remove_hook_from_module(model.get_submodule(path))
    found = diagnose(model)
    assert (found[0].cause, found[0].module) == ("hooks-removed", path)


def test_an_overwritten_forward_is_found(any_sample):
    model = offloaded(any_sample)
    path = _owners_on_meta(model)[3]
    module = model.get_submodule(path)
    module.forward = types.MethodType(type(module).forward, module)
    found = diagnose(model)
    assert (found[0].cause, found[0].module) == ("forward-bypasses-hook", path)


def test_a_model_without_data_is_found(any_sample):
    from accelerate import init_empty_weights

    model_class, name = type(plain(any_sample)), str(plain(any_sample).config._name_or_path)
    with init_empty_weights():
        model = model_class.from_pretrained(name)
    found = diagnose(model)
    assert [one.cause for one in found] == ["never-materialised"]
    assert _stranded(model) <= set(found[0].tensors)


def test_a_layer_with_random_values_is_found(any_sample):
    model = plain(any_sample)
    name, parameter = [(n, p) for n, p in model.named_parameters() if p.dim() == 2 and "emb" not in n][2]
    torch.manual_seed(0)
    with torch.no_grad():
        parameter.copy_(torch.randn_like(parameter) * parameter.std())
    found = diagnose(model)
    assert (found[0].cause, found[0].severity, found[0].tensors) == ("uninitialised-values", "silent", (name,))


def test_scaled_rotary_frequencies_are_found():
    model = plain()
    model.model.rotary_emb.inv_freq.mul_(0.5)
    assert diagnose(model)[0].tensors == ("model.rotary_emb.inv_freq",)


def test_plain_attributes_left_on_meta_are_found():
    model = plain()
    model.model.layers[0].extra = torch.ones(3, device="meta")
    found = diagnose(model)
    assert (found[0].cause, found[0].tensors) == ("never-materialised", ("model.layers.0.extra",))


def test_a_key_that_the_checkpoint_lacks_is_called_newly_initialised(tiny_copy):
    key = "model.layers.2.self_attn.q_proj.weight"
    found = diagnose(plain(without_key(tiny_copy, key)))
    assert (found[0].cause, found[0].certainty, found[0].tensors) == ("uninitialised-values", "likely", (key,))


def test_an_adapter_that_changes_nothing_is_found(tmp_path):
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(plain(), config).save_pretrained(tmp_path)
    found = diagnose(peft.PeftModel.from_pretrained(plain(), str(tmp_path)))
    assert found[0].cause == "uninitialised-values"
    assert all("lora_B" in name for name in found[0].tensors)


def test_the_active_adapter_is_judged_when_another_one_is_right(tmp_path):
    import peft

    for name, zero in (("right", False), ("dead", True)):
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=zero)
        peft.get_peft_model(plain(), config).save_pretrained(tmp_path / name)
    model = peft.PeftModel.from_pretrained(plain(), str(tmp_path / "right"))
    model.load_adapter(str(tmp_path / "dead"), "second")
    assert diagnose(model).healthy
    model.set_adapter("second")
    found = diagnose(model)
    assert found[0].cause == "uninitialised-values"
    assert all("lora_B.second" in name for name in found[0].tensors)


# --- a table that was kept --------------------------------------------------------------------------------------


def _table(**values) -> pd.DataFrame:
    row = {"name": "layer.weight", "kind": "parameter", "module": "layer", "module_class": "Linear", "shape": (2, 2),
           "dtype": "float32", "numel": 4, "nbytes": 16, "device": "meta", "mapped_device": pd.NA,
           "execution_device": pd.NA, "backing": "none", "quantization": "none", "tied_group": 0}  # fmt: skip
    return pd.DataFrame([{**row, **values}], columns=list(PLACEMENT_COLUMNS))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mapped_device": "disk"}, ["hooks-removed"]),
        ({}, ["never-materialised"]),
        ({"backing": "offloaded", "mapped_device": "disk", "execution_device": "cuda:0"}, []),
    ],
    ids=["its map meant disk: the hooks are gone", "no map: nothing was filled", "offloaded: healthy"],
)
def test_a_table_shows_by_its_map_what_was_lost(values, said):
    assert [one.cause for one in diagnose(placement=_table(**values))] == said


# --- devices that are not here ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["xpu:0", "mps:0", "npu:1", "cuda:3"])
def test_both_orders_of_the_headline_text_are_told_apart_on_any_device(device):
    first = diagnose(text=f"RuntimeError: Tensor on device {device} is not on the expected device meta!")[0]
    later = diagnose(text=f"RuntimeError: Tensor on device meta is not on the expected device {device}!")[0]
    assert first.because[0].startswith("The first operand is on meta")
    assert later.because[0].startswith("A later operand is on meta")


# --- ties that a device map splits --------------------------------------------------------------------------------


def _split_tie() -> nn.Module:
    device_map = {"shared": "cpu", "encoder": "cpu", "decoder": "disk", "lm_head": "cpu"}
    return load(LoadSpec("tiny-t5", device_map=device_map)).model


def test_a_tied_weight_that_stays_while_its_module_goes_to_disk_is_found_before_it_fails():
    from diag import require_materialised
    from diag.errors import MetaWithoutDataError

    model = _split_tie()
    found = diagnose(model)
    assert [(one.cause, one.certainty) for one in found] == [("tied-weights-split", "shown")]
    assert "decoder.embed_tokens.weight" in found[0].tensors
    with pytest.raises(MetaWithoutDataError, match=r"decoder\.embed_tokens\.weight"):
        require_materialised(model)


def test_the_error_of_a_split_tie_is_the_tie_and_its_fix_another_map():
    model, ids = _split_tie(), torch.tensor([[1, 2, 3]])
    with pytest.raises(KeyError, match=r"decoder\.embed_tokens\.weight") as caught:
        model(input_ids=ids, decoder_input_ids=ids)
    found = diagnose(model, error=caught.value)
    assert found[0].cause == "tied-weights-split"
    assert found[0].fixes[0].spec.device_map == "auto"
