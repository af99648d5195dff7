"""Scenarios: quantization."""

from __future__ import annotations

from typing import Any

from diag.reproduce.common import disk_map, remember_right_answer, run, token_ids
from diag.reproduce.scenario import Scenario, Stage, steps


def ask_for_nf4_with_disk(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=disk_map(), quantization_config=config
    )


def load_nf4_allowing_cpu(stage: Stage) -> str:
    from torch import nn
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_enable_fp32_cpu_offload=True)
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=disk_map(), quantization_config=config, offload_folder=stage.folder / "offload"
    )
    plain = sum(type(m) is nn.Linear for m in stage.model.modules())
    return f"is_quantized is {stage.model.is_quantized}, and {plain} Linear layers are at full size"


def call_a_layer_that_was_never_packed(stage: Stage) -> None:
    import bitsandbytes as bnb
    import torch

    stage.model.model.layers[0].mlp.up_proj = bnb.nn.Linear4bit(64, 128, bias=False)
    stage.model.model.layers[0].mlp.up_proj(torch.ones(1, 64))


def load_plain(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())


def load_int8(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), quantization_config=BitsAndBytesConfig(load_in_8bit=True), device_map={"": "cpu"}
    )


def load_nf4(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), quantization_config=config, device_map={"": "cpu"}
    )


def rebuild_parameter(stage: Stage) -> None:
    from torch import nn

    layer = stage.model.model.layers[2].mlp.down_proj
    layer.weight = nn.Parameter(layer.weight.data.clone(), requires_grad=False)  # the scales are not copied


def run_it(stage: Stage) -> Any:
    stage.answer = stage.model(token_ids()).logits


def cast_to_half(stage: Stage) -> None:
    stage.model.half()


QUANTIZED_SCENARIOS = (
    Scenario(
        "quantized-offload-refused", "The plan is refused before a weight is read.",
        steps=steps(("load", "Ask for nf4 with a map that holds disk.", ask_for_nf4_with_disk),),
        asked={"device_map": disk_map(), "quantization": "nf4"},
    ),
    Scenario(
        "quantization-skipped", "The switch that allows offload leaves the modules unquantized.", silent=True,
        steps=steps(("build", "Remember the unquantized answer.", remember_right_answer),
                    ("load", "Load nf4 with the switch for offload, over CPU and disk.", load_nf4_allowing_cpu),
                    ("run", "Run it: the answer is the unquantized one.", run)),
    ),
    Scenario(
        "quantization-skipped", "A packed class around a weight that was never packed.", variant="never-packed",
        steps=steps(("load", "Load it unquantized.", load_plain),
                    ("run", "Put a Linear4bit in and call it.", call_a_layer_that_was_never_packed)),
    ),
    Scenario(
        "quantization-state-lost", "The bytes are there, and their scales are not.",
        steps(("load", "Load it in int8.", load_int8),
              ("break", "Rebuild one weight as a plain parameter.", rebuild_parameter),
              ("run", "Run it.", run_it)),
    ),
    Scenario(
        "quantized-cast", "Packed weights have no dtype to cast.",
        steps(("load", "Load it in nf4.", load_nf4),
              ("run", "Call .half().", cast_to_half)),
    ),
)  # fmt: skip
