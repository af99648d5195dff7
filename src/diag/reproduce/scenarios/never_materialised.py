"""never-materialised: the model was built on meta, and its weights were never filled in."""

from diag.reproduce.common import checkpoint_state, token_ids
from diag.reproduce.scenario import Scenario, Stage, Step


def load_without_data(stage: Stage) -> str:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():  # meant for from_config; transformers 5 does not refuse it here
        stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    return f"{sum(p.is_meta for p in stage.model.parameters())} parameters are on meta, and loading reported success"


def generate(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids()}
    stage.model.generate(**stage.inputs, max_new_tokens=2, do_sample=False)


def load_with_meta_map(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map="meta")
    return "loading reported success"


def move_to_cpu(stage: Stage) -> None:
    stage.model.to("cpu")


def build_empty(stage: Stage) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        stage.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(stage.checkpoint())))


def load_state_without_assign(stage: Stage) -> object:
    state = checkpoint_state(stage)
    return stage.model.load_state_dict(state, strict=False)  # without assign=True nothing is copied


GENERATE = Step("run", "Generate a few words.", generate)

EMPTY_CONTEXT = Scenario(
    cause="never-materialised",
    teaches="Loading reports success, and every parameter is on meta.",
    steps=(Step("load", "Load inside accelerate's context for empty models.", load_without_data), GENERATE),
)
META_MAP = Scenario(
    cause="never-materialised",
    variant="meta-map",
    teaches="device_map='meta' is accepted, and gives shapes without data.",
    steps=(
        Step("load", "Load with device_map='meta'.", load_with_meta_map),
        Step("run", "Move it, as the usual advice says.", move_to_cpu),
    ),
)
NO_ASSIGN = Scenario(
    cause="never-materialised",
    variant="no-assign",
    teaches="'All keys matched', and nothing was loaded.",
    steps=(
        Step("build", "Build the model without data.", build_empty),
        Step("load", "Load the checkpoint without assign=True.", load_state_without_assign),
        GENERATE,
    ),
)
