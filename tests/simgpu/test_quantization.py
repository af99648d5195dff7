"""int8 and 4-bit models on simulated GPUs: the bits of the same quantized model on the CPU."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from diag.loading.footprint import use_common_kernel

pytest.importorskip("bitsandbytes")

IDS = torch.tensor([[1, 5, 9, 33, 7]])
ALL = range(6)
OUTSIDE = {"model.embed_tokens": 0, "lm_head": 0, "model.rotary_emb": 0, "model.norm": 0}
ONE = {"": 0}
TWO = {**OUTSIDE, **{f"model.layers.{i}": i // 3 for i in ALL}}
SPILL = {**OUTSIDE, **{f"model.layers.{i}": [0, 1, "cpu", "cpu", "disk", 0][i] for i in ALL}}
NOT_ON_A_GPU = ["lm_head", *[f"model.layers.{i}" for i in (2, 3, 4)]]
KINDS = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}


def load(path, device_map, kind, folder, **options):
    config = BitsAndBytesConfig(**KINDS[kind], **options)
    model = AutoModelForCausalLM.from_pretrained(
        path, device_map=device_map, quantization_config=config, offload_folder=str(folder)
    )
    return model.eval()


def load_twin(path, kind, folder, **options):
    model = load(path, "cpu", kind, folder, **options)
    use_common_kernel(model)
    return model


def answer(model, device):
    ids = IDS.to(device)
    with torch.no_grad():
        logits = model(ids).logits.cpu()
    return logits, model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0).tolist()


def quantized(model) -> set[str]:
    return {type(m).__name__ for m in model.modules()} & {"Linear4bit", "Linear8bitLt"}


@pytest.mark.parametrize("device_map", [ONE, TWO], ids=["one device", "two devices"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_equals_its_twin_on_the_cpu(kind, device_map, tiny_path, two_gpus, tmp_path):
    logits, tokens = answer(load_twin(tiny_path, kind, tmp_path), "cpu")
    model = load(tiny_path, device_map, kind, tmp_path)
    assert quantized(model)
    assert {p.device.type for p in model.parameters()} == {"simgpu"}
    ours, our_tokens = answer(model, "simgpu:0")
    assert torch.equal(ours, logits)
    assert our_tokens == tokens


@pytest.mark.parametrize("kind", KINDS)
def test_with_fp32_offload_over_cpu_and_disk_it_equals_its_twin(kind, tiny_path, two_gpus, tmp_path):
    twin = load_twin(
        tiny_path,
        kind,
        tmp_path,
        llm_int8_enable_fp32_cpu_offload=True,
        llm_int8_skip_modules=NOT_ON_A_GPU,
    )
    logits, tokens = answer(twin, "cpu")
    model = load(tiny_path, SPILL, kind, tmp_path, llm_int8_enable_fp32_cpu_offload=True)
    assert quantized(model)
    assert {str(p.device) for p in model.parameters()} == {"simgpu:0", "simgpu:1", "meta"}
    ours, our_tokens = answer(model, "simgpu:0")
    assert torch.equal(ours, logits)
    assert our_tokens == tokens


def test_bitsandbytes_imported_after_activation_runs_its_cpu_kernels(two_gpus):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(64, 64)
    here, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    there, its_state = quantize_4bit(weight.to("simgpu:1"), quant_type="nf4", compress_statistics=True)
    assert torch.equal(here, there.cpu())
    assert torch.equal(dequantize_4bit(here, state), dequantize_4bit(there, its_state).cpu())
