"""device-mismatch: two real devices meet in one operation."""

from diag.reproduce.common import load_on_gpu, token_ids
from diag.reproduce.scenario import Scenario, Stage, step


@step("run", "Run it with inputs on the CPU.")
def run_with_inputs_on_cpu(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids()}
    stage.model(**stage.inputs)


@step("break", "Park a layer on the CPU.")
def park_a_layer(stage: Stage) -> None:
    stage.model.model.layers[3].to("cpu")


@step("run", "Run it.")
def run_on_gpu(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids().to(stage.model.device)}
    stage.model(**stage.inputs)


INPUTS = Scenario(
    cause="device-mismatch",
    teaches="Without hooks nobody moves the inputs.",
    steps=(load_on_gpu, run_with_inputs_on_cpu),
    hardware="300MiB+8GiB",
)
PARKED = Scenario(
    cause="device-mismatch",
    variant="parked",
    teaches="A layer that was parked on the CPU.",
    steps=(load_on_gpu, park_a_layer, run_on_gpu),
    hardware="300MiB+8GiB",
)
