"""input-on-meta: the inputs were sent to model.device, which is meta."""

from diag.reproduce.common import load_embedding_on_disk, token_ids
from diag.reproduce.scenario import Scenario, Stage, step


@step("run", "Send the inputs to model.device.")
def send_inputs_to_model_device(stage: Stage) -> None:
    ids = token_ids().to(stage.model.device)  # model.device is meta: the numbers are gone
    stage.inputs = {"input_ids": ids}
    stage.model(**stage.inputs)


SCENARIO = Scenario(
    cause="input-on-meta",
    teaches="inputs.to(model.device) throws the inputs away.",
    steps=(load_embedding_on_disk, send_inputs_to_model_device),
)
