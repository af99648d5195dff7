"""Every kind of model gets an input that it can answer; a saved request is asked again; a proof names its probes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from places import HELPERS
from safetensors.torch import save_file

import diag
from diag.errors import CouldNotJudgeError
from diag.proving.probing import NEW_TOKENS, ask
from diag.values.spec import LoadSpec


@pytest.fixture(autouse=True)
def _helpers_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HELPERS))


def load(model="tiny", **values):
    return diag.load(LoadSpec(model, **{"device_map": "cpu", **values})).model


@pytest.fixture(scope="module")
def tiny():
    return load()


def answer(model, probe=None, name="tiny"):
    return ask(model, probe, str(diag.samples.path(name)))


def test_a_decoder_is_asked_for_logits_and_generates_a_little(tiny):
    found = answer(tiny)
    assert found.outputs.shape[1] == tiny.config.vocab_size
    assert len(found.tokens) == NEW_TOKENS


def test_a_vision_language_model_sees_an_image():
    model = load("tiny-llava")
    seen = []
    model.model.vision_tower.register_forward_hook(lambda *_: seen.append(1))
    found = answer(model, name="tiny-llava")
    assert seen and found.tokens and "image" in found.probe


def test_the_image_decides_what_a_vision_language_model_says():
    model = load("tiny-llava")
    before = answer(model, name="tiny-llava").outputs
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).normal_()
    assert not np.array_equal(before, answer(model, name="tiny-llava").outputs)


def test_an_encoder_is_compared_by_its_last_hidden_state():
    model = load("tiny-bert")
    found = answer(model, name="tiny-bert")
    assert found.outputs.shape[1] == model.config.hidden_size and found.tokens == ()
    proof = diag.prove(model)
    assert proof.proved and proof.probes == ("The capital of France is",)


def test_an_encoder_decoder_generates():
    found = answer(load("tiny-t5"), name="tiny-t5")
    assert len(found.tokens) > 1
    assert diag.prove(load("tiny-t5", device_map="disk")).probes[-1] == "generation"


@pytest.mark.parametrize(
    "saved",
    [
        {"prompt": "A saved request"},
        {"inputs": "A saved request", "parameters": {"max_new_tokens": 2}},
        {"body": json.dumps({"prompt": "A saved request"})},
        "A saved request",
    ],
)
def test_a_saved_prompt_is_asked_like_the_prompt_itself(tiny, tmp_path, saved):
    path = tmp_path / "request.json"
    path.write_text(json.dumps(saved))
    found, plain = answer(tiny, str(path)), answer(tiny, "A saved request")
    assert np.array_equal(found.outputs, plain.outputs) and found.tokens == plain.tokens
    assert found.probe == str(path)


def test_saved_token_ids_and_tensors_are_replayed_as_they_are(tiny, tmp_path):
    ids = [[5, 6, 7, 8, 9]]
    mask = [[0, 1, 1, 1, 1]]
    with torch.no_grad():
        right = tiny(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits[0].numpy()
    (tmp_path / "r.json").write_text(json.dumps({"input_ids": ids, "attention_mask": mask, "labels": ids}))
    save_file({"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}, tmp_path / "r.safetensors")
    (tmp_path / "ids.json").write_text(json.dumps(ids[0]))
    for name in ("r.json", "r.safetensors"):
        assert np.array_equal(answer(tiny, str(tmp_path / name)).outputs, right), name
    assert answer(tiny, str(tmp_path / "ids.json")).outputs.shape == right.shape


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is not there"),
        ("{", "can't be used"),
        ('{"input_ids": [["a"]]}', "can't be used"),
        ('{"pixels": [[1, 2]]}', "does not take"),
        ("3", "can't be used"),
        ('{"body": "prompt=hi"}', "can't be used"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "can't be used"),
    ],
)
def test_a_saved_request_that_can_not_be_asked_says_why(tiny, tmp_path, text, said):
    path = tmp_path / "request.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CouldNotJudgeError, match=said):
        answer(tiny, str(path))


def test_a_saved_chat_is_asked_through_the_models_own_template(tiny_copy, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_copy)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}yes{% endif %}"
    )
    tokenizer.save_pretrained(tiny_copy)
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"model": "any", "messages": [{"role": "user", "content": "the model"}]}))
    model = load(str(tiny_copy))
    found = ask(model, str(path), str(tiny_copy))
    same = ask(model, "the model yes", str(tiny_copy))
    assert np.array_equal(found.outputs, same.outputs) and found.tokens == same.tokens


def test_a_saved_request_decides_the_proof_and_is_named(tmp_path):
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"input_ids": [[3, 4, 5]]}))
    proof = diag.prove(load(device_map="disk", probe=str(path)))
    assert proof.proved and proof.probes == (str(path), "generation")


def test_a_function_is_a_probe_and_generation_is_still_part_of_the_check(tiny):
    found = answer(tiny, "probe_helpers:hidden")
    assert found.outputs.shape == (4, tiny.config.hidden_size) and len(found.tokens) == NEW_TOKENS


def test_a_probe_that_is_wrong_itself_is_named_and_not_the_model(tiny):
    with pytest.raises(CouldNotJudgeError, match=r"the probe .* returned a str, not a tensor"):
        answer(tiny, "probe_helpers:text_of_nothing")
    with pytest.raises(CouldNotJudgeError, match=r"the probe .* raised RuntimeError: probe trouble"):
        answer(tiny, "probe_helpers:raises_by_itself")
    with pytest.raises(IndexError):  # the model was asked for a token that it has not
        answer(tiny, "probe_helpers:asks_too_much")


def test_the_model_is_left_as_it_was(tiny):
    tiny.train()
    answer(tiny)
    assert tiny.training and all(module.training for module in tiny.modules())
    tiny.eval()


@pytest.mark.parametrize("kind", ["OPT", "Mamba"])
def test_a_checkpoint_without_a_tokenizer_is_asked_with_fixed_ids(tmp_path, kind):
    import transformers

    small = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2}
    extra = {"ffn_dim": 64, "num_attention_heads": 2, "word_embed_proj_dim": 32} if kind == "OPT" else {"state_size": 4}
    config = getattr(transformers, f"{kind}Config")(**small, **extra)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(tmp_path)
    proof = diag.prove(diag.load(diag.LoadSpec(str(tmp_path), device_map="disk")).model)
    assert proof.proved and proof.probes[0] == "fixed token ids", proof
