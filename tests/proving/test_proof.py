"""prove(): right means equal to its twin, twice; close is not enough, and what can't be judged is not called right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diag
from diag.proving.probing import Answer, ask
from diag.proving.proof import distance, proof_of
from diag.proving.twin import align_like


def load(model="tiny", **values):
    outcome = diag.load(diag.LoadSpec(model, **values))
    assert outcome.error is None, outcome.error
    return outcome.model


@pytest.mark.parametrize("device_map", ["none", "cpu", "disk", "offload"])
def test_every_sample_equals_its_twin_under_every_map(any_sample, device_map):
    proof = diag.prove(load(any_sample, device_map=device_map))
    assert proof.proved, proof
    assert proof.max_abs_diff == 0.0 and proof.repeatable and proof.tolerance == 0.0


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4", "nf4-double"])
def test_a_quantized_model_equals_its_quantized_twin(quantization):
    proof = diag.prove(load(device_map="cpu", quantization=quantization))
    assert proof.proved, proof


def randomise_one_layer(model):
    with torch.no_grad():
        model.model.layers[2].self_attn.v_proj.weight.normal_(std=0.02)


def scale_inv_freq(model):
    model.model.rotary_emb.inv_freq.mul_(1.001)


def lose_the_tie(model):
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))


def flip_one_element(model):
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] *= -1


@pytest.mark.parametrize("spoil", [randomise_one_layer, scale_inv_freq, lose_the_tie, flip_one_element])
def test_a_small_wrong_is_wrong(spoil):
    model = load(device_map="none")
    spoil(model)
    proof = diag.prove(model)
    assert proof.proved is False
    assert "differs" in proof.reason and str(proof).startswith("not proved")


@pytest.mark.parametrize("spoil", [randomise_one_layer, scale_inv_freq, lose_the_tie])
@pytest.mark.slow
def test_a_small_wrong_in_real_weights_is_wrong_although_it_may_still_say_paris(spoil):
    model = load("smollm2", device_map="none")
    spoil(model)
    assert diag.prove(model).proved is False


@pytest.mark.slow
def test_real_weights_say_paris_and_are_proved():
    proof = diag.prove(load("smollm2", device_map="offload"))
    assert proof.proved and "Paris" in proof.answer


def test_the_distance_to_the_unquantized_model_decides_nothing():
    quantized, plain = load(device_map="cpu", quantization="nf4"), load(device_map="none")
    folder = diag.samples.path("tiny")
    far = np.abs(ask(quantized, None, str(folder)).outputs - ask(plain, None, str(folder)).outputs).max()
    assert far > 0.1 and diag.prove(quantized).proved


def test_an_orphan_weight_is_caught_although_nothing_is_raised():
    model = load(device_map="none")
    model.model.layers[1].self_attn.q_proj.weight = torch.nn.Parameter(torch.empty(64, 64, device="meta"))
    assert diag.prove(model).proved is False


def test_a_wholly_meta_model_answers_with_a_shape_and_no_values(tiny_path):
    from transformers import AutoConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(AutoConfig.from_pretrained(tiny_path))
    proof = diag.prove(model, diag.LoadSpec("tiny"))
    assert proof.proved is False and "meta" in proof.reason


def test_a_model_that_raises_is_not_proved_and_the_error_is_named():
    model = load(device_map="none")

    def fail(*args, **kwargs):
        raise RuntimeError("boom")

    model.model.layers[0].forward = fail
    proof = diag.prove(model)
    assert proof.proved is False and "boom" in proof.reason


def test_a_model_from_nowhere_cannot_be_judged():
    proof = diag.prove(torch.nn.Linear(2, 2))
    assert proof.proved is None and "pass spec=" in proof.reason


def test_a_model_loaded_by_hand_from_a_folder_is_compared_with_that_folder(tiny_path):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(str(tiny_path))
    assert diag.prove(model).proved
    scale_inv_freq(model)
    assert diag.prove(model).proved is False


def test_proving_leaves_the_training_flags_and_gradients_alone():
    model = load(device_map="none")
    model.train()
    model.model.layers[0].eval()
    flags = [m.training for m in model.modules()]
    diag.prove(model)
    assert [m.training for m in model.modules()] == flags
    assert all(p.requires_grad for p in model.parameters())


def test_a_probe_of_ones_own_is_used_and_named(tmp_path, monkeypatch):
    (tmp_path / "my_probes.py").write_text("def norm(model):\n    return model.model.norm.weight * 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    proof = diag.prove(load(device_map="none", probe="my_probes:norm"))
    assert proof.proved and proof.probes == ("my_probes:norm", "generation")


def test_a_prompt_is_a_probe_even_with_a_colon_in_it():
    proof = diag.prove(load(device_map="none", probe="Question: what is it?"))
    assert proof.proved and proof.probes[0] == "Question: what is it?"


# --- proof_of: pure, from answers typed here --------------------------------------------------------------------------


def answer(outputs=((1.0, 2.0), (3.0, 1.0)), **values) -> Answer:
    return Answer(np.array(outputs, np.float32), **values)


NEAR = answer(((1.0, 2.0), (3.0, np.nextafter(np.float32(1), np.float32(2)))))
NOTHING = answer(((np.nan, np.nan), (np.nan, np.nan)))


@pytest.mark.parametrize(
    ("ours", "twin", "exact", "proved", "says"),
    [
        pytest.param(answer(), answer(), True, True, "equal", id="equal"),
        pytest.param(NEAR, answer(), True, False, "differs", id="the smallest difference, where bits must agree"),
        pytest.param(NEAR, answer(), False, True, "within", id="the smallest difference, on other kernels"),
        pytest.param(answer(repeatable=False), answer(), True, False, "two runs", id="matches and does not repeat"),
        pytest.param(answer(tokens=(1, 2)), answer(tokens=(1, 3)), True, False, "generated", id="other tokens"),
        pytest.param(answer(tokens=(1, 2)), answer(tokens=(1, 3)), False, None, "generated", id="on other kernels"),
        pytest.param(answer(tokens=()), answer(tokens=(1, 3)), False, False, "generated", id="no tokens"),
        pytest.param(NOTHING, NOTHING, True, None, "no finite number", id="not one finite number"),
        pytest.param(answer(((1.0, 2.0),)), answer(), True, False, "shape", id="another shape"),
    ],
)
def test_two_answers_show(ours, twin, exact, proved, says):
    proof = proof_of(ours, twin, exact=exact, dtype="float32")
    assert proof.proved is proved and says in proof.reason, proof


def test_a_probe_that_cannot_be_imported_says_nothing_about_the_model():
    proof = diag.prove(load(device_map="none", probe="no_such_module:ask"))
    assert proof.proved is None and "no_such_module" in proof.reason


@pytest.mark.parametrize("stored", [False, True])
def test_a_quantized_model_loaded_by_hand_has_a_quantized_twin(tiny_path, tmp_path, stored):
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = LlamaForCausalLM.from_pretrained(str(tiny_path), quantization_config=config, device_map={"": "cpu"})
    if stored:
        model.save_pretrained(tmp_path)
        model = LlamaForCausalLM.from_pretrained(str(tmp_path), device_map={"": "cpu"})
    proof = diag.prove(model)
    assert proof.proved, proof


def test_an_answer_survives_storage_exactly():
    stored = answer(((np.nan, np.inf), (1e-38, -0.0)), tokens=(5, 6), text="Pa\x00ris", probe="p", repeatable=False)
    back = Answer.from_bytes(stored.to_bytes())
    assert back.outputs.tobytes() == stored.outputs.tobytes()
    assert (back.tokens, back.text, back.probe, back.repeatable) == ((5, 6), "Pa\x00ris", "p", False)


# --- healthy models that answer or generate by another path ------------------------------------------------------


def _small(folder, family: str, **values):
    """A model of that family with an encoder and a decoder, loaded from a folder; its values are fixed."""
    import transformers

    sizes = {"vocab_size": 128, "d_model": 32}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 64}
    config = getattr(transformers, f"{family}Config")(**sizes, **values)
    torch.manual_seed(0)
    model_class = getattr(transformers, f"{family}ForConditionalGeneration")
    model_class(config).save_pretrained(folder)
    return model_class.from_pretrained(folder)


def _all_on_disk(model, folder):
    from accelerate import disk_offload

    return disk_offload(model, folder, execution_device="cpu")


def test_weights_at_other_addresses_are_compared_with_a_twin_that_has_them_there(tmp_path):
    offloaded = _all_on_disk(_small(tmp_path / "model", "Bart", max_position_embeddings=64), tmp_path / "disk")
    proof = diag.prove(offloaded)  # once "not proved: differs by up to 2.98e-08"
    assert proof.proved is True and proof.tolerance == 0.0, proof


def test_a_twin_is_moved_to_the_models_addresses_and_keeps_its_values(tmp_path):
    model, twin = load(device_map="none"), load(device_map="none")
    weight = model.model.layers[0].mlp.up_proj.weight
    offset = (twin.model.layers[0].mlp.up_proj.weight.data_ptr() + 16) % 64
    room = torch.empty(weight.nbytes + 128, dtype=torch.uint8)
    start = (offset - room.data_ptr()) % 64
    weight.data = room[start : start + weight.nbytes].view(weight.dtype).view(weight.shape).copy_(weight.data)
    assert align_like(twin, model) >= 1
    moved = twin.model.layers[0].mlp.up_proj.weight
    assert moved.data_ptr() % 64 == offset and torch.equal(moved, weight)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight


def test_the_smallest_change_of_a_weight_is_no_matter_of_addresses():
    model = load(device_map="none")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-6
    assert diag.prove(model).proved is False


WHISPER = {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 32, "pad_token_id": 1,
           "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None,
           "begin_suppress_tokens": None}  # fmt: skip


def test_ids_that_generate_makes_on_meta_leave_a_proof_open_and_the_fix_brings_the_weights_in(tmp_path):
    from diag.diagnosis.engine import diagnose
    from diag.diagnosis.mending.fixes import fix

    model = _all_on_disk(_small(tmp_path / "model", "Whisper", **WHISPER), tmp_path / "disk")
    proof = diag.prove(model)
    assert proof.proved is None and "makes ids of its own on model.device" in proof.reason
    with pytest.raises(NotImplementedError) as error, torch.no_grad():
        model.generate(torch.randn(1, 16, 40), max_new_tokens=3)
    found = diagnose(model, error=error.value)
    assert found[0].cause == "input-on-meta" and "The caller's inputs are real" in found[0].because[0]
    assert "use-input-device" not in [one.action for one in found[0].fixes]
    assert "Moving the inputs changes nothing" in found[0].fixes[-1].because
    fixed = fix(found)
    assert fixed.notes[0].startswith("applied: materialise") and fixed.proof.proved is True


def test_inputs_that_the_caller_sent_to_meta_are_still_called_so(tmp_path):
    from diag.diagnosis.engine import diagnose

    model = _all_on_disk(load(device_map="none"), tmp_path)
    with pytest.raises(Exception, match="meta") as error, torch.no_grad():
        model.generate(torch.tensor([[5, 17]]).to(model.device), max_new_tokens=2)
    found = diagnose(model, error=error.value)
    assert found[0].fixes[0].action == "use-input-device"


# --- distance: the numbers that decide whether two answers are one ----------------------------------------------------


def logits(seed=0, positions=3, width=5):
    return np.random.default_rng(seed).normal(size=(positions, width)).astype(np.float32)


def test_an_answer_is_at_no_distance_from_itself():
    d = distance(logits(), logits())
    assert (d.max_abs_diff, d.kl_divergence, d.top1_agreement, d.relative) == (0.0, 0.0, 1.0, 0.0)


def test_the_largest_difference_is_found_wherever_it_is():
    other = logits()
    other[2, 4] += 0.5
    assert distance(other, logits()).max_abs_diff == pytest.approx(0.5, abs=1e-6)


def test_a_shift_of_all_logits_changes_them_but_no_probability():
    d = distance(logits() + 1, logits())
    assert d.max_abs_diff == pytest.approx(1, abs=1e-6) and d.kl_divergence == pytest.approx(0, abs=1e-9)


def test_kl_matches_its_definition():
    a, b = logits(0), logits(1)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (b.astype(float), a.astype(float)))
    assert distance(a, b).kl_divergence == pytest.approx((p * np.log(p / q)).sum(-1).mean())


def test_top1_counts_positions():
    b = np.eye(4, dtype=np.float32)
    a = b.copy()
    a[0] = [0, 0, 0, 1]
    assert distance(a, b).top1_agreement == 0.75


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_infinitely_far_on_one_side_and_no_difference_on_both(value):
    other = logits()
    other[0, 0] = value
    assert distance(other, logits()).max_abs_diff == np.inf
    assert distance(other, other.copy()).max_abs_diff == 0.0


@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min, np.finfo(np.float16).min])
def test_a_masked_logit_does_not_make_other_differences_small(mask):
    a, b = logits(0), logits(1)
    a[:, 0] = b[:, 0] = mask
    assert distance(a, b).relative > 0.5
