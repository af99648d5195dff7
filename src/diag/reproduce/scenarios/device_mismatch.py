"""device-mismatch: two real devices meet in one operation."""

from diag.reproduce.common import Scenario, Stage, load_on_gpu, step, token_ids


@step("run", "Run it with inputs on the CPU.")
def run_from_cpu(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids()}
    stage.model(**stage.inputs)


@step("break", "Park a layer on the CPU.")
def park_a_layer(stage: Stage) -> None:
    stage.model.model.layers[3].to("cpu")


@step("run", "Run it.")
def run_on_gpu(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids().to(stage.model.device)}
    stage.model(**stage.inputs)


GPU = "300MiB+8GiB"
INPUTS = Scenario(
    "device-mismatch", "Without hooks nobody moves the inputs.", (load_on_gpu, run_from_cpu), hardware=GPU
)
PARKED_STEPS = (load_on_gpu, park_a_layer, run_on_gpu)
PARKED = Scenario("device-mismatch/parked", "A layer that was parked on the CPU.", PARKED_STEPS, hardware=GPU)
