"""memory-already-taken: another worker holds the memory that the plan counts on."""

from diag.reproduce.scenario import Scenario, Stage, step


@step("load", "Load nf4 with device_map='auto' beside another worker.")
def load_nf4(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from diag.machine.accelerators import free_memory

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map="auto", quantization_config=config, max_memory=free_memory()
    )


ASKED = {"device_map": "auto", "quantization": "nf4"}
TEACHES = "The card is large enough; what is free is not."
SCENARIO = Scenario("memory-already-taken", TEACHES, (load_nf4,), hardware="3MiB-2900KiB+8GiB", asked=ASKED)
