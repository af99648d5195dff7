"""saving-offloaded-model: the state dict that is saved holds placeholders."""

from diag.reproduce.scenario import Scenario, Stage, step


@step("load", "Load it, and offload it to the CPU's store.")
def offload_to_cpu(stage: Stage) -> None:
    from accelerate import cpu_offload
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    cpu_offload(stage.model, execution_device="cpu")


@step("run", "Save it.")
def save(stage: Stage) -> None:
    stage.model.save_pretrained(str(stage.folder / "saved"))


TEACHES = "The state dict of a model under cpu_offload holds placeholders."
SCENARIO = Scenario("saving-offloaded-model", TEACHES, (offload_to_cpu, save))
