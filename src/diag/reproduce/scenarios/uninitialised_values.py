"""uninitialised-values: tensors have memory, but nobody filled it."""

from diag.reproduce.common import Scenario, Stage, remember_answer, run, step


@step("load", "Build on meta, to_empty(), load the state.")
def load_through_to_empty(stage: Stage) -> str:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    right = AutoModelForCausalLM.from_pretrained(stage.checkpoint()).state_dict()
    torch.full((4096,), 7.0)  # memory that was used before, as in any real process
    with torch.device("meta"):
        stage.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(stage.checkpoint())))
    stage.model.to_empty(device="cpu")  # the usual advice
    stage.model.load_state_dict(right)
    return "all keys matched"


@step("load", "Load a model with such a buffer.")
def load_unsaved_buffer(stage: Stage) -> str:
    from diag.reproduce.older_code import UnsavedBufferModel, saved_by

    stage.model = UnsavedBufferModel.from_pretrained(saved_by(UnsavedBufferModel, stage.folder))
    return f"its buffer should count 1 2 3 4 ... and holds {stage.model.steps[:4].tolist()}"


TO_EMPTY_TEACHES = "Every key matched, and the rotary frequencies are garbage."
TO_EMPTY_STEPS = (remember_answer, load_through_to_empty, run)
TO_EMPTY = Scenario("uninitialised-values", TO_EMPTY_TEACHES, TO_EMPTY_STEPS, silent=True)
BUFFER_TEACHES = "A buffer that is not saved comes back as whatever was in memory."
BUFFER = Scenario("uninitialised-values/buffer", BUFFER_TEACHES, (load_unsaved_buffer,), silent=True)
