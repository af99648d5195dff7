"""never-materialised: the model was built on meta, and its weights were never filled in."""

from diag.reproduce.common import checkpoint_state, token_ids
from diag.reproduce.scenario import Scenario, Stage, step


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
def load_state_without_assign(stage: Stage) -> object:
    state = checkpoint_state(stage)
    return stage.model.load_state_dict(state, strict=False)  # without assign=True nothing is copied


EMPTY_CONTEXT = Scenario(
    cause="never-materialised",
    teaches="Loading reports success, and every parameter is on meta.",
    steps=(load_without_data, generate),
)
META_MAP = Scenario(
    cause="never-materialised",
    variant="meta-map",
    teaches="device_map='meta' is accepted, and gives shapes without data.",
    steps=(load_with_meta_map, move_to_cpu),
)
NO_ASSIGN = Scenario(
    cause="never-materialised",
    variant="no-assign",
    teaches="'All keys matched', and nothing was loaded.",
    steps=(build_empty, load_state_without_assign, generate),
)
