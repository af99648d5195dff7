"""placement(): every tensor under every name, and the model exactly as it was."""

from __future__ import annotations

import time
from typing import ClassVar

import pandas as pd
import pytest
import torch
from torch import nn

import diag
from diag.errors import NotAModelError
from diag.models.table import PLACEMENT_COLUMNS, by_device, by_layer


def load(name="tiny", **values):
    outcome = diag.load(diag.LoadSpec(name, **values))
    assert outcome.error is None, outcome.error
    return outcome.model


def test_a_linear_layer_is_two_resident_rows():
    table = diag.placement(nn.Linear(3, 4))
    assert table[["name", "kind", "shape", "dtype", "numel", "nbytes", "device", "backing"]].values.tolist() == [
        ["weight", "parameter", (4, 3), "float32", 12, 48, "cpu", "resident"],
        ["bias", "parameter", (4,), "float32", 4, 16, "cpu", "resident"],
    ]
    assert table.mapped_device.isna().all() and table.execution_device.isna().all()


def test_an_empty_model_has_an_empty_table_with_all_columns():
    table = diag.placement(nn.Sequential())
    assert list(table.columns) == list(PLACEMENT_COLUMNS) and len(table) == 0
    assert table.nbytes.sum() == 0


@pytest.mark.parametrize("thing", [3, None, {}, {"a": 1}, object()])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(NotAModelError, match="Next:"):
        diag.placement(thing)


def test_every_name_is_there_tied_ones_included(any_sample):
    model = load(any_sample, device_map="none")
    table = diag.placement(model)
    names = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    names |= {n for n, _ in model.named_buffers(remove_duplicate=False)}
    assert set(table.name) == names and table.name.is_unique
    once = table.drop_duplicates("tied_group")
    unique = {id(t): t for t in (*model.parameters(), *model.buffers())}
    assert once.nbytes.sum() == sum(t.nbytes for t in unique.values())
    assert once.numel.sum() == sum(t.numel() for t in unique.values())


def test_tied_names_share_a_group_also_when_offloaded():
    for device_map in ("none", "disk", {"": "disk"}):
        table = diag.placement(load(device_map=device_map)).set_index("name")
        assert table.tied_group["lm_head.weight"] == table.tied_group["model.embed_tokens.weight"]
    assert table.device["lm_head.weight"] == "meta"


def test_kinds_tell_buffers_that_are_saved_from_those_that_are_not():
    model = nn.BatchNorm1d(2)
    model.register_buffer("scratch", torch.zeros(1), persistent=False)
    kinds = diag.placement(model).set_index("name").kind
    assert dict(kinds) == {
        "weight": "parameter", "bias": "parameter", "running_mean": "buffer", "running_var": "buffer",
        "num_batches_tracked": "buffer", "scratch": "non_persistent_buffer",
    }  # fmt: skip


def test_disk_offloaded_weights_are_meta_but_backed():
    table = diag.placement(load(device_map="offload"))
    layer = table[table.name.str.startswith("model.layers.5.")]
    assert set(layer.device) == {"meta"} and set(layer.backing) == {"offloaded"}
    assert set(layer.mapped_device) == {"disk"} and set(layer.execution_device) == {"cpu"}
    first = table[table.name.str.startswith("model.layers.0.")]
    assert set(first.backing) == {"resident"} and set(first.mapped_device) == {"cpu"}


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4", "nf4-double"])
def test_quantized_weights_show_their_state_and_logical_size(quantization):
    model = load(device_map="cpu", quantization=quantization)
    table = diag.placement(model).set_index("name")
    name = "model.layers.0.mlp.up_proj.weight"
    assert table.quantization[name] == quantization
    plain = diag.placement(load(device_map="none")).set_index("name")
    assert table.numel[name] == plain.numel[name]
    assert table.nbytes[name] < plain.nbytes[name]
    state = table[table.kind == "quant_state"]
    saved = set(model.state_dict()) - {n for n in model.state_dict() if "bitsandbytes__" in n or "weight_format" in n}
    assert set(state.index) <= saved
    expected = "SCB" if quantization == "int8" else "absmax"
    assert {n.rpartition(".")[2] for n in state.index} >= {expected}
    assert set(state.quantization) == {quantization}
    assert table.quantization["model.norm.weight"] == "none"


def fingerprint(model):
    """Everything placement must leave alone, by identity and by value."""
    tensors = {n: (id(t), t.device, t.dtype, t.requires_grad, t.is_meta or t.data_ptr(), t._version)
               for n, t in (*model.named_parameters(), *model.named_buffers())}  # fmt: skip
    modules = {n: (id(m), m.training, id(m.__dict__.get("_hf_hook")), id(m.__dict__.get("forward")), sorted(m.__dict__))
               for n, m in model.named_modules()}  # fmt: skip
    return tensors, modules


@pytest.mark.parametrize("values", [{"device_map": "offload"}, {"device_map": "none"},
                                    {"device_map": "cpu", "quantization": "nf4"},
                                    {"device_map": "cpu", "quantization": "int8"}])  # fmt: skip
def test_a_model_is_left_exactly_as_it_was(values):
    model = load(**values).train()
    before = fingerprint(model)
    diag.placement(model)
    assert fingerprint(model) == before


def test_components_of_a_pipeline_become_prefixes():
    class Pipeline:
        components: ClassVar = {"unet": nn.Linear(1, 1), "scheduler": object(), "vae": nn.Linear(1, 1, bias=False)}

    table = diag.placement(Pipeline())
    assert list(table.name) == ["unet.weight", "unet.bias", "vae.weight"]
    assert list(table.module) == ["unet", "unet", "vae"]
    assert table.tied_group.is_unique


def test_two_names_for_one_module_are_both_shown():
    shared = nn.Linear(2, 2)
    table = diag.placement(nn.ModuleDict({"a": shared, "b": shared}))
    assert list(table.name) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert table.drop_duplicates("tied_group").nbytes.sum() == 24


def test_fifty_thousand_tensors_are_all_there_and_the_time_is_shown(record_property):
    model = nn.ModuleList([nn.Linear(1, 1, device="meta") for _ in range(25_000)])
    start = time.perf_counter()
    table = diag.placement(model)
    record_property("seconds", time.perf_counter() - start)
    assert len(table) == 50_000 and set(table.backing) == {"none"}


def test_numbers_are_numbers_and_text_is_text():
    table = diag.placement(load(device_map="offload"))
    assert all(pd.api.types.is_integer_dtype(table[c]) for c in ("numel", "nbytes", "tied_group"))
    assert all(pd.api.types.is_string_dtype(table[c]) for c in ("name", "device", "backing", "mapped_device"))
    assert isinstance(table["shape"].iloc[0], tuple)


# --- views: plain frames whose sums agree with the table -------------------------------------------------------------


def test_views_add_up_to_the_table():
    table = diag.placement(load(device_map="offload"))
    total = table.drop_duplicates("tied_group").nbytes.sum()
    assert by_device(table).nbytes.sum() == total
    assert by_layer(table).nbytes.sum() == total


def test_layers_come_in_order_and_say_where_they_are():
    layers = by_layer(diag.placement(load(device_map="offload")))
    blocks = [name for name in layers.layer if name.startswith("model.layers.")]
    assert blocks == [f"model.layers.{i}" for i in range(len(blocks))]
    assert layers.set_index("layer").n_offloaded["model.layers.5"] > 0
