"""quantized-cast: a quantized model is cast to another dtype."""

from diag.reproduce.scenario import Scenario, Stage, step


@step("load", "Load it in nf4.")
def load_nf4(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), quantization_config=config, device_map={"": "cpu"}
    )


@step("run", "Call .half().")
def cast_to_half(stage: Stage) -> None:
    stage.model.half()


SCENARIO = Scenario("quantized-cast", "Packed weights have no dtype to cast.", (load_nf4, cast_to_half))
