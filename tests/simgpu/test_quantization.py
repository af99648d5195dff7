"""int8 and 4-bit models on simulated GPUs: the bits of the same quantized model on the CPU."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from diag.loading.footprint import use_common_kernel

pytest.importorskip("bitsandbytes")

ALL = range(6)
OUTSIDE = {"model.embed_tokens": 0, "lm_head": 0, "model.rotary_emb": 0, "model.norm": 0}
ONE, SKIPPED = {"": 0}, ["lm_head", *[f"model.layers.{i}" for i in (2, 3, 4)]]
TWO = {**OUTSIDE, **{f"model.layers.{i}": i // 3 for i in ALL}}
SPILL = {**OUTSIDE, **{f"model.layers.{i}": [0, 1, "cpu", "cpu", "disk", 0][i] for i in ALL}}
MIXED = {"llm_int8_enable_fp32_cpu_offload": True}
KINDS = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}


def load(path, device_map, kind, folder, **options):
    config = BitsAndBytesConfig(**KINDS[kind], **options)
    how = {"device_map": device_map, "quantization_config": config, "offload_folder": str(folder)}
    return AutoModelForCausalLM.from_pretrained(path, **how).eval()


@pytest.mark.parametrize(
    ("device_map", "devices", "ours", "of_the_twin"),
    [
        (ONE, {"simgpu:0"}, {}, {}),
        (TWO, {"simgpu:0", "simgpu:1"}, {}, {}),
        (SPILL, {"simgpu:0", "simgpu:1", "meta"}, MIXED, {**MIXED, "llm_int8_skip_modules": SKIPPED}),
    ],
    ids=["one device", "two devices", "over cpu and disk with fp32 offload"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_equals_its_twin_on_the_cpu(
    kind, device_map, devices, ours, of_the_twin, tiny_path, answer, two_gpus, tmp_path
):
    twin = load(tiny_path, "cpu", kind, tmp_path, **of_the_twin)
    use_common_kernel(twin)
    expected, expected_tokens = answer(twin)
    model = load(tiny_path, device_map, kind, tmp_path, **ours)
    assert {type(module).__name__ for module in model.modules()} & {"Linear4bit", "Linear8bitLt"}
    assert {str(p.device) for p in model.parameters()} == devices
    logits, tokens = answer(model, "simgpu:0")
    assert torch.equal(logits, expected) and tokens == expected_tokens


def test_bitsandbytes_imported_after_activation_runs_its_cpu_kernels(two_gpus):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(64, 64)
    here, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    there, its_state = quantize_4bit(weight.to("simgpu:1"), quant_type="nf4", compress_statistics=True)
    assert torch.equal(here, there.cpu())
    assert torch.equal(dequantize_4bit(here, state), dequantize_4bit(there, its_state).cpu())
