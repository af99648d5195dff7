"""input-on-meta: the inputs were sent to model.device, which is meta."""

from diag.reproduce.common import Scenario, Stage, load_embedding_on_disk, step, token_ids


@step("run", "Send the inputs to model.device.")
def send_inputs_to_meta(stage: Stage) -> None:
    ids = token_ids().to(stage.model.device)  # model.device is meta: the numbers are gone
    stage.inputs = {"input_ids": ids}
    stage.model(**stage.inputs)


TEACHES = "inputs.to(model.device) throws the inputs away."
SCENARIO = Scenario("input-on-meta", TEACHES, (load_embedding_on_disk, send_inputs_to_meta))
