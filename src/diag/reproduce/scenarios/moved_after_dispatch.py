"""moved-after-dispatch: a dispatched model is moved with .to(), .cpu() or a pipeline's device=."""

from diag.reproduce.common import Scenario, Stage, load_with_disk, step


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


TO_TEACHES = "accelerate guards .to() of the whole model; the model is unharmed."
TO = Scenario("moved-after-dispatch", TO_TEACHES, (load_with_disk, move_whole_model))
CPU_TEACHES = ".cpu() is not guarded and reaches the placeholders."
CPU = Scenario("moved-after-dispatch/cpu", CPU_TEACHES, (load_with_disk, call_cpu))
PIPELINE_TEACHES = "A pipeline's device= moves as well."
PIPELINE = Scenario("moved-after-dispatch/pipeline", PIPELINE_TEACHES, (load_with_disk, make_pipeline))
