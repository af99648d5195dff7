"""Which of bitsandbytes' two 4-bit kernels computes a model on the CPU: a fact that a change in it would break."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

import diag
from diag.errors import UnsupportedError
from diag.loading.footprint import Packed, packed_among, packed_layers, use_common_kernel

functional = pytest.importorskip("bitsandbytes.functional")
IDS = torch.tensor([[1, 5, 9, 33, 7]])


def load(**values):
    outcome = diag.load(diag.LoadSpec("tiny", device_map="cpu", dtype="float32", **values))
    assert outcome.error is None, outcome.error
    return outcome.model


def dequantized(model):
    """The same model with plain layers that hold what its 4-bit weights stand for."""
    plain = load()
    for name in packed_layers(model).names:
        packed = model.get_submodule(name).weight
        plain.get_submodule(name).weight.data = functional.dequantize_4bit(packed.data, packed.quant_state)
    return plain


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_the_common_kernel_multiplies_with_the_dequantized_weight(quantization):
    model = load(quantization=quantization)
    use_common_kernel(model)
    expected = dequantized(model)(IDS).logits
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, expected)
        assert torch.equal(model(IDS).logits, expected)  # a second call finds the weight as it was


def test_the_bfloat16_kernel_is_known_before_the_first_call():
    model = load(quantization="nf4")
    packed = packed_layers(model)
    with torch.no_grad():
        first = model(IDS).logits
    other = load(quantization="nf4")
    use_common_kernel(other)
    with torch.no_grad():
        differs = not torch.equal(other(IDS).logits, first)
    assert packed.fused is differs is bool(functional.has_avx512bf16())


@pytest.mark.skipif(not functional.has_avx512bf16(), reason="needs a CPU with AVX512-BF16")
@pytest.mark.parametrize(
    ("size", "unfit", "raised"),
    [
        (100, "model.layers.0.mlp.gate_proj", "N must be divisible by block_n"),
        (160, "model.layers.0.mlp.down_proj", "is invalid for input of size"),
    ],
)
def test_a_shape_that_kernel_cannot_compute_is_refused_before_the_load(size, unfit, raised, tmp_path):
    config = AutoConfig.from_pretrained(diag.samples.path("tiny"), intermediate_size=size)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    outcome = diag.load(diag.LoadSpec(str(tmp_path), device_map="cpu", quantization="nf4"))
    assert isinstance(outcome.error, UnsupportedError)
    assert unfit in str(outcome.error) and "multiple of 32" in str(outcome.error)
    kept = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    with pytest.raises((AssertionError, RuntimeError), match=raised), torch.no_grad():
        kept(IDS)
    use_common_kernel(kept)
    with torch.no_grad():
        assert kept(IDS).logits.isfinite().all()


def test_only_four_bit_layers_on_the_cpu_have_it():
    class Linear4bit(torch.nn.Linear):
        support_avx512bf16_for_cpu = True

    layers = [("a", Linear4bit(64, 32)), ("b", torch.nn.Linear(2, 2))]
    assert packed_among(layers, {"a": "cpu", "b": "cpu"}) == Packed(("a",), True)
    assert packed_among(layers, {"a": 0, "b": "cpu"}) == Packed(("a",), False)
    assert packed_layers(load(quantization="int8")).fused is False
