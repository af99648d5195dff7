"""quantization-state-lost: a packed weight is there without its scales."""

from diag.reproduce.common import Scenario, Stage, run, step


@step("load", "Load it in int8.")
def load_int8(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    on_cpu = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": "cpu"}}
    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), **on_cpu)


@step("break", "Rebuild one weight as a plain parameter.")
def rebuild_parameter(stage: Stage) -> None:
    from torch import nn

    layer = stage.model.model.layers[2].mlp.down_proj
    layer.weight = nn.Parameter(layer.weight.data.clone(), requires_grad=False)  # the scales are not copied


TEACHES = "The bytes are there, and their scales are not."
SCENARIO = Scenario("quantization-state-lost", TEACHES, (load_int8, rebuild_parameter, run))
