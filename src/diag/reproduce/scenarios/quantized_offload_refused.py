"""quantized-offload-refused: a quantized load gets a map that holds disk."""

from diag.reproduce.common import Scenario, Stage, disk_map, step


@step("load", "Ask for nf4 with a map that holds disk.")
def load_nf4(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=disk_map(), quantization_config=config
    )


TEACHES = "The plan is refused before a weight is read."
ASKED = {"device_map": disk_map(), "quantization": "nf4"}
SCENARIO = Scenario("quantized-offload-refused", TEACHES, (load_nf4,), asked=ASKED)
