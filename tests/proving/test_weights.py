"""verify_weights: names every tensor that differs from the files, and none that does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diag import LoadSpec, load
from diag.errors import CouldNotJudgeError
from diag.proving.weights import VERIFY_COLUMNS, verify_weights


@pytest.mark.parametrize("device_map", ["none", "offload", "disk"])
def test_every_sample_agrees_with_its_files_wherever_its_weights_are(any_sample, device_map):
    table = verify_weights(load(LoadSpec(any_sample, device_map=device_map)).model)
    assert list(table.columns) == list(VERIFY_COLUMNS)
    assert table.empty


@pytest.mark.parametrize("quantization", ["int8", "nf4", "nf4-double"])
def test_honest_quantization_agrees(any_sample, quantization, load_quantized):
    assert verify_weights(load_quantized(any_sample, quantization)).empty


def test_one_changed_number_is_found():
    model = load(LoadSpec("tiny", device_map="none")).model
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[7, 9] += 0.5
    table = verify_weights(model)
    assert table.name.tolist() == ["model.layers.3.mlp.up_proj.weight"]
    assert table.max_abs_diff[0] == pytest.approx(0.5)
    assert table.share_different[0] == pytest.approx(1 / model.model.layers[3].mlp.up_proj.weight.numel())


def test_a_shuffled_packed_weight_is_found():
    model = load(LoadSpec("tiny", device_map="none", quantization="nf4")).model
    weight = model.model.layers[1].mlp.up_proj.weight
    weight.data = weight.data.flip(0)
    assert verify_weights(model).name.tolist() == ["model.layers.1.mlp.up_proj.weight"]


def test_a_stranded_weight_has_no_data():
    from accelerate.hooks import remove_hook_from_module

    model = load(LoadSpec("tiny", device_map="offload")).model
    remove_hook_from_module(model.model.layers[5].mlp.up_proj)
    table = verify_weights(model)
    assert table[["name", "status"]].values.tolist() == [["model.layers.5.mlp.up_proj.weight", "no data"]]


def test_another_checkpoint_can_be_named(tiny_copy):
    from safetensors.torch import load_file, save_file

    shard = next(iter(sorted(tiny_copy.glob("*.safetensors"))))
    save_file({k: v + 1 for k, v in load_file(shard).items()}, shard, {"format": "pt"})
    model = load(LoadSpec("tiny", device_map="none")).model
    assert verify_weights(model).empty
    assert set(verify_weights(model, tiny_copy).status) == {"differs"}


def test_a_bin_checkpoint_is_read_too(tiny_copy):
    model = load(LoadSpec("tiny", device_map="none")).model
    for file in tiny_copy.glob("*.safetensors*"):
        file.unlink()
    torch.save(model.state_dict(), tiny_copy / "pytorch_model.bin")
    assert verify_weights(model, str(tiny_copy)).empty


def test_a_model_from_nowhere_can_not_be_judged():
    with pytest.raises(CouldNotJudgeError, match="not known which checkpoint"):
        verify_weights(nn.Linear(2, 2))


def test_a_changed_expert_is_found_and_the_files_are_read_one_expert_at_a_time(mixtral_path, monkeypatch):
    from diag.loading.checkpoint.stored import Source
    from diag.proving import weights

    model = load(LoadSpec("tiny-mixtral", device_map="none")).model
    experts = [(n, p) for n, p in model.named_parameters() if ".experts." in n and "layers.1." in n]
    name, weight = experts[-1]
    with torch.no_grad():
        weight.view(-1)[:3] += 0.5
    read, rows = Source.read, []

    def counted(self, start=0, stop=None):
        part = read(self, start, stop)
        rows.append(part.shape[0] if self.converter is not None else 0)
        return part

    monkeypatch.setattr(Source, "read", counted)
    monkeypatch.setattr(weights, "_CHUNK", 1)
    table = verify_weights(model)
    assert table[["name", "status"]].values.tolist() == [[name, "differs"]]
    assert table.key[0]
    assert max(rows) <= 1  # transformers 4 stacks no experts, so that nothing is converted
