"""quantized-offload-refused: a quantized load gets a map that holds disk."""

from diag.reproduce.common import disk_map
from diag.reproduce.scenario import Scenario, Stage, step


@step("load", "Ask for nf4 with a map that holds disk.")
def ask_for_nf4_with_disk(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=disk_map(), quantization_config=config
    )


SCENARIO = Scenario(
    cause="quantized-offload-refused",
    teaches="The plan is refused before a weight is read.",
    steps=(ask_for_nf4_with_disk,),
    asked={"device_map": disk_map(), "quantization": "nf4"},
)
