"""moved-after-dispatch: a dispatched model is moved with .to(), .cpu() or a pipeline's device=."""

from diag.reproduce.common import LOAD_WITH_DISK
from diag.reproduce.scenario import Scenario, Stage, Step


def move_whole_model(stage: Stage) -> None:
    stage.model.to("cpu")


def call_cpu(stage: Stage) -> None:
    stage.model.cpu()  # not guarded by accelerate


def make_pipeline(stage: Stage) -> None:
    from transformers import TextGenerationPipeline

    TextGenerationPipeline(model=stage.model, tokenizer=None, device="cpu")


TO = Scenario(
    cause="moved-after-dispatch",
    teaches="accelerate guards .to() of the whole model; the model is unharmed.",
    steps=(LOAD_WITH_DISK, Step("run", "Move it.", move_whole_model)),
)
CPU = Scenario(
    cause="moved-after-dispatch",
    variant="cpu",
    teaches=".cpu() is not guarded and reaches the placeholders.",
    steps=(LOAD_WITH_DISK, Step("run", "Call .cpu().", call_cpu)),
)
PIPELINE = Scenario(
    cause="moved-after-dispatch",
    variant="pipeline",
    teaches="A pipeline's device= moves as well.",
    steps=(LOAD_WITH_DISK, Step("run", "Make a pipeline with device=.", make_pipeline)),
)
