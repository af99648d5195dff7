"""never-materialised: the model was built on meta, and its weights were never filled in."""

from diag.reproduce.common import Scenario, Stage, checkpoint_state, step, token_ids


@step("load", "Load inside accelerate's context for empty models.")
def load_without_data(stage: Stage) -> str:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():  # meant for from_config; transformers 5 does not refuse it here
        stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    return f"{sum(p.is_meta for p in stage.model.parameters())} parameters are on meta, and loading reported success"


@step("run", "Generate a few words.")
def generate(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids()}
    stage.model.generate(**stage.inputs, max_new_tokens=2, do_sample=False)


@step("load", "Load with device_map='meta'.")
def load_with_meta_map(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map="meta")
    return "loading reported success"


@step("run", "Move it, as the usual advice says.")
def move_to_cpu(stage: Stage) -> None:
    stage.model.to("cpu")


@step("build", "Build the model without data.")
def build_empty(stage: Stage) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        stage.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(stage.checkpoint())))


@step("load", "Load the checkpoint without assign=True.")
def load_state(stage: Stage) -> object:
    return stage.model.load_state_dict(checkpoint_state(stage), strict=False)  # without assign=True nothing is copied


EMPTY_TEACHES = "Loading reports success, and every parameter is on meta."
EMPTY_CONTEXT = Scenario("never-materialised", EMPTY_TEACHES, (load_without_data, generate))
META_MAP_TEACHES = "device_map='meta' is accepted, and gives shapes without data."
META_MAP = Scenario("never-materialised/meta-map", META_MAP_TEACHES, (load_with_meta_map, move_to_cpu))
NO_ASSIGN_TEACHES = "'All keys matched', and nothing was loaded."
NO_ASSIGN = Scenario("never-materialised/no-assign", NO_ASSIGN_TEACHES, (build_empty, load_state, generate))
