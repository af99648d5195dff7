"""device-mismatch: two real devices meet in one operation."""

from diag.reproduce.common import load_on_gpu, token_ids
from diag.reproduce.scenario import Scenario, Stage, Step


def run_with_inputs_on_cpu(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids()}
    stage.model(**stage.inputs)


def park_a_layer(stage: Stage) -> None:
    stage.model.model.layers[3].to("cpu")


def run_on_gpu(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids().to(stage.model.device)}
    stage.model(**stage.inputs)


LOAD_ON_GPU = Step("load", "Load everything on one GPU.", load_on_gpu)

INPUTS = Scenario(
    cause="device-mismatch",
    teaches="Without hooks nobody moves the inputs.",
    steps=(LOAD_ON_GPU, Step("run", "Run it with inputs on the CPU.", run_with_inputs_on_cpu)),
    hardware="300MiB+8GiB",
)
PARKED = Scenario(
    cause="device-mismatch",
    variant="parked",
    teaches="A layer that was parked on the CPU.",
    steps=(LOAD_ON_GPU, Step("break", "Park a layer on the CPU.", park_a_layer), Step("run", "Run it.", run_on_gpu)),
    hardware="300MiB+8GiB",
)
