"""moved-after-dispatch: a dispatched model is moved with .to(), .cpu() or a pipeline's device=."""

from diag.reproduce.common import load_with_disk
from diag.reproduce.scenario import Scenario, Stage, step


@step("run", "Move it.")
def move_whole_model(stage: Stage) -> None:
    stage.model.to("cpu")


@step("run", "Call .cpu().")
def call_cpu(stage: Stage) -> None:
    stage.model.cpu()  # not guarded by accelerate


@step("run", "Make a pipeline with device=.")
def make_pipeline(stage: Stage) -> None:
    from transformers import TextGenerationPipeline

    TextGenerationPipeline(model=stage.model, tokenizer=None, device="cpu")


TO = Scenario(
    cause="moved-after-dispatch",
    teaches="accelerate guards .to() of the whole model; the model is unharmed.",
    steps=(load_with_disk, move_whole_model),
)
CPU = Scenario(
    cause="moved-after-dispatch",
    variant="cpu",
    teaches=".cpu() is not guarded and reaches the placeholders.",
    steps=(load_with_disk, call_cpu),
)
PIPELINE = Scenario(
    cause="moved-after-dispatch",
    variant="pipeline",
    teaches="A pipeline's device= moves as well.",
    steps=(load_with_disk, make_pipeline),
)
