"""quantization-skipped: quantization was asked for, and layers are not quantized."""

from diag.reproduce.common import Scenario, Stage, disk_map, load_plain, remember_answer, run, step


@step("load", "Load nf4 with the switch for offload, over CPU and disk.")
def load_nf4_allowing_cpu(stage: Stage) -> str:
    from torch import nn
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_enable_fp32_cpu_offload=True)
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=disk_map(), quantization_config=config, offload_folder=stage.folder / "offload"
    )
    plain = sum(type(m) is nn.Linear for m in stage.model.modules())
    return f"is_quantized is {stage.model.is_quantized}, and {plain} Linear layers are at full size"


@step("run", "Put a Linear4bit in and call it.")
def call_unpacked_layer(stage: Stage) -> None:
    import bitsandbytes as bnb
    import torch

    stage.model.model.layers[0].mlp.up_proj = bnb.nn.Linear4bit(64, 128, bias=False)
    stage.model.model.layers[0].mlp.up_proj(torch.ones(1, 64))


OFFLOADED_TEACHES = "The switch that allows offload leaves the modules unquantized."
OFFLOADED_STEPS = (
    remember_answer.saying("Remember the unquantized answer."),
    load_nf4_allowing_cpu,
    run.saying("Run it: the answer is the unquantized one."),
)
OFFLOADED = Scenario("quantization-skipped", OFFLOADED_TEACHES, OFFLOADED_STEPS, silent=True)
NEVER_PACKED_TEACHES = "A packed class around a weight that was never packed."
NEVER_PACKED_STEPS = (load_plain.saying("Load it unquantized."), call_unpacked_layer)
NEVER_PACKED = Scenario("quantization-skipped/never-packed", NEVER_PACKED_TEACHES, NEVER_PACKED_STEPS)
