"""A checkpoint that lacks tensors: those of the body make the answer wrong, a new head is only mentioned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file

import diag
from diag.proving.twin import missing_from_body
from diag.values.spec import LoadSpec

LAYER = "bert.encoder.layer.1.output.dense.weight"


def without(folder: Path, part: str) -> str:
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_checkpoint_that_lacks_a_layer_is_wrong_with_and_without_a_loader(tiny_copy, tmp_path, monkeypatch):
    folder = without(tiny_copy, ".layers.2.")
    (tmp_path / "lacking.py").write_text(
        "import transformers\n\n\ndef load(device_map=None, **_):\n"
        f"    return transformers.LlamaForCausalLM.from_pretrained({folder!r}, device_map=device_map)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    specs = [LoadSpec(folder, "cpu"), LoadSpec(folder, "cpu", loader="lacking:load")]
    frame = diag.matrix(specs, tmp_path / "r.sqlite", progress=False)
    assert list(frame.status) == ["wrong_output", "wrong_output"], "it was ok, equal to a twin as random as itself"
    for reason in frame.reason:
        assert "lacks 9 tensors of the model" in reason and "Cause: uninitialised-values" in reason


def test_proving_a_model_that_lacks_a_layer_fails(tiny_copy):
    spec = LoadSpec(without(tiny_copy, ".layers.2.mlp.down"), "none")
    proof = diag.prove(diag.load(spec).model, spec)
    assert proof.proved is False and "layers.2.mlp.down_proj.weight" in proof.reason


def test_a_classifier_on_a_base_checkpoint_is_mentioned_and_does_not_fail(bert_path, tmp_path):
    import shutil

    folder = shutil.copytree(bert_path, tmp_path / "head")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    frame = diag.matrix([LoadSpec(str(folder), "cpu")], tmp_path / "r.sqlite", progress=False)
    assert list(frame.status) == ["ok"], list(frame.reason)
    assert "newly initialised, 'classifier" in frame.reason[0] and "a new head" in frame.reason[0]


@pytest.mark.parametrize(
    ("keys", "needed"),
    [
        (("classifier.weight", "bert.pooler.dense.weight"), ()),
        (
            ("bert.encoder.layer.1.output.dense.weight", "classifier.bias"),
            ("bert.encoder.layer.1.output.dense.weight",),
        ),
    ],
)
def test_a_classifier_is_no_body(keys, needed):
    model = transformers.BertForSequenceClassification(_bert())
    assert missing_from_body(model, keys) == needed


def test_a_language_head_is_needed_for_the_answer():
    model = transformers.BertForMaskedLM(_bert())
    assert missing_from_body(model, ("cls.predictions.transform.dense.weight",))


def _bert():
    return transformers.BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=16
    )
