"""input-on-meta: the inputs were sent to model.device, which is meta."""

from diag.reproduce.common import LOAD_EMBEDDING_ON_DISK, token_ids
from diag.reproduce.scenario import Scenario, Stage, Step


def send_inputs_to_model_device(stage: Stage) -> None:
    ids = token_ids().to(stage.model.device)  # model.device is meta: the numbers are gone
    stage.inputs = {"input_ids": ids}
    stage.model(**stage.inputs)


SCENARIO = Scenario(
    cause="input-on-meta",
    teaches="inputs.to(model.device) throws the inputs away.",
    steps=(LOAD_EMBEDDING_ON_DISK, Step("run", "Send the inputs to model.device.", send_inputs_to_model_device)),
)
