"""Scenarios: what is done with a model that was loaded: moving, adapters, training, threads, saving, compiling."""

from __future__ import annotations

from typing import Any

from diag.reproduce.common import disk_map, load_with_disk, logits, remember_right_answer, run, token_ids
from diag.reproduce.scenario import Scenario, Stage, steps
from diag.reproduce.scenarios.adapters import load_base_again, make_adapter, put_adapter_on, put_adapter_on_relative

# --- moved-after-dispatch -------------------------------------------------------------------------------------


def move_whole_model(stage: Stage) -> None:
    stage.model.to("cpu")


def call_cpu(stage: Stage) -> None:
    stage.model.cpu()  # not guarded by accelerate


def make_pipeline(stage: Stage) -> None:
    from transformers import TextGenerationPipeline

    TextGenerationPipeline(model=stage.model, tokenizer=None, device="cpu")


# --- submodule-replaced ---------------------------------------------------------------------------------------


def replace_mlp(stage: Stage) -> None:
    import torch

    torch.manual_seed(0)
    layer = stage.model.model.layers[5]  # one of the blocks on disk
    layer.mlp = type(layer.mlp)(stage.model.config)


# --- training-offloaded-layers --------------------------------------------------------------------------------


def train_a_step(stage: Stage) -> str:
    import torch

    stage.model.train()
    optimizer = torch.optim.SGD([p for p in stage.model.parameters() if p.requires_grad], lr=0.1)
    before = float(stage.model(token_ids(), labels=token_ids()).loss)
    stage.model(token_ids(), labels=token_ids()).loss.backward()
    optimizer.step()
    trained = sum(p.grad is not None for p in stage.model.parameters())
    return f"loss was {before:.3f}; {trained} of {len(list(stage.model.parameters()))} parameters got a gradient"


# --- concurrent-load ------------------------------------------------------------------------------------------


def load_in_two_threads(stage: Stage) -> None:
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    inside, done = threading.Event(), threading.Event()

    def plan_memory() -> None:  # one request plans with an empty model ...
        with init_empty_weights():
            inside.set()
            done.wait(60)

    def load_model() -> Any:  # ... while another one loads: the context is the whole process's
        inside.wait(60)
        try:
            stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
            return stage.model.to("cpu")
        finally:
            done.set()

    with ThreadPoolExecutor(2) as pool:
        pool.submit(plan_memory)
        pool.submit(load_model).result()


# --- concurrent-calls -----------------------------------------------------------------------------------------


def call_from_threads(stage: Stage) -> str:
    from concurrent.futures import ThreadPoolExecutor

    stage.inputs = {"input_ids": token_ids()}
    with ThreadPoolExecutor(8) as pool:
        for _ in range(50):  # as requests overlap in a service; one of the first rounds fails
            for call in [pool.submit(logits, stage.model) for _ in range(16)]:
                call.result()
    return "all calls answered"


# --- saving-offloaded-model -----------------------------------------------------------------------------------


def offload_to_cpu(stage: Stage) -> None:
    from accelerate import cpu_offload
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    cpu_offload(stage.model, execution_device="cpu")


def save(stage: Stage) -> None:
    stage.model.save_pretrained(str(stage.folder / "saved"))


# --- compiled-hooks -------------------------------------------------------------------------------------------


def compile_fully(stage: Stage) -> None:
    import torch

    compiled = torch.compile(stage.model, fullgraph=True, backend="eager")
    compiled(token_ids())


# --- constructor-on-meta, environment-mismatch ----------------------------------------------------------------


def load_code_with_numbers(stage: Stage) -> None:
    from diag.reproduce.scenarios.older_code import DropPathModel, saved_by

    stage.model = DropPathModel.from_pretrained(saved_by(DropPathModel, stage.folder))


def load_code_for_version_4(stage: Stage) -> None:
    from diag.reproduce.scenarios.older_code import WithoutPostInit, saved_by

    stage.model = WithoutPostInit.from_pretrained(saved_by(WithoutPostInit, stage.folder))


# --- uninitialised-values -------------------------------------------------------------------------------------


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


def load_code_with_unsaved_buffer(stage: Stage) -> str:
    from diag.reproduce.scenarios.older_code import UnsavedBufferModel, saved_by

    folder = saved_by(UnsavedBufferModel, stage.folder)
    stage.model = UnsavedBufferModel.from_pretrained(folder)
    return f"its buffer should count 0 1 2 3 ... and holds {stage.model.steps[:4].tolist()}"


def notice(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=disk_map(), offload_folder=stage.folder / "offload"
    )
    stage.text = "\n".join(stage.notes)
    return "accelerate says where it put the weights"


def keep_the_notice(stage: Stage) -> str:
    stage.text = "\n".join(note for note in stage.notes if "meta device" in note)
    return stage.text


USE_SCENARIOS = (
    Scenario(
        "moved-after-dispatch", "accelerate guards .to() of the whole model; the model is unharmed.",
        steps(("load", "Load with the last two blocks on disk.", load_with_disk),
              ("run", "Move it.", move_whole_model)),
    ),
    Scenario(
        "moved-after-dispatch", ".cpu() is not guarded and reaches the placeholders.", variant="cpu",
        steps=steps(("load", "Load with the last two blocks on disk.", load_with_disk),
                    ("run", "Call .cpu().", call_cpu)),
    ),
    Scenario(
        "moved-after-dispatch", "A pipeline's device= moves as well.", variant="pipeline",
        steps=steps(("load", "Load with the last two blocks on disk.", load_with_disk),
                    ("run", "Make a pipeline with device=.", make_pipeline)),
    ),
    Scenario(
        "submodule-replaced", "Finite, fluent and wrong.", silent=True,
        steps=steps(("build", "Remember the right answer.", remember_right_answer),
                    ("load", "Load with the last two blocks on disk.", load_with_disk),
                    ("break", "Put another MLP in.", replace_mlp),
                    ("run", "Run it.", run)),
    ),
    Scenario(
        "adapter-on-offloaded-base", "PEFT dispatches the base a second time.",
        steps(("build", "Make a small adapter.", make_adapter),
              ("load", "Load the base with two blocks on disk.", load_with_disk),
              ("run", "Put the adapter on.", put_adapter_on)),
    ),
    Scenario(
        "adapter-on-offloaded-base", "PEFT writes over the files of the base (here of a copy).", silent=True,
        variant="files-rewritten",
        steps=steps(("build", "Remember the right answer.", remember_right_answer),
                    ("build", "Make a small adapter.", make_adapter),
                    ("break", "Put it on a base at a relative path, two blocks on disk.", put_adapter_on_relative),
                    ("load", "Load the base again, without adapter.", load_base_again),
                    ("run", "Run it.", run)),
    ),
    Scenario(
        "training-offloaded-layers", "The step succeeds, and a third of the model learned nothing.", silent=True,
        steps=steps(("load", "Load with the last two blocks on disk.", load_with_disk),
                    ("run", "Train one step.", train_a_step)),
    ),
    Scenario(
        "concurrent-load", "One thread's context reaches into the other's load.",
        steps(("run", "Plan in one thread while another one loads.", load_in_two_threads),)
    ),
    Scenario(
        "concurrent-calls", "The headline error from a healthy model: overlapping calls share its hooks.",
        steps=steps(("load", "Load with the last two blocks on disk.", load_with_disk),
                    ("run", "Call it from eight threads.", call_from_threads)),
    ),
    Scenario(
        "saving-offloaded-model", "The state dict of a model under cpu_offload holds placeholders.",
        steps(("load", "Load it, and offload it to the CPU's store.", offload_to_cpu),
              ("run", "Save it.", save)),
    ),
    Scenario(
        "compiled-hooks", "Hooks can't be part of one whole graph.",
        steps(("load", "Load with the last two blocks on disk.", load_with_disk),
              ("run", "Compile it with fullgraph=True and run it.", compile_fully)),
    ),
    Scenario(
        "constructor-on-meta", "The constructor asks a tensor for a number, and there is none yet.",
        steps(("load", "Load a model whose code was written for transformers 4.", load_code_with_numbers),)
    ),
    Scenario(
        "environment-mismatch", "Model code for transformers 4 does not call post_init().",
        steps(("load", "Load it under transformers 5.", load_code_for_version_4),)
    ),
    Scenario(
        "uninitialised-values", "Every key matched, and the rotary frequencies are garbage.", silent=True,
        steps=steps(("build", "Remember the right answer.", remember_right_answer),
                    ("load", "Build on meta, to_empty(), load the state.", load_through_to_empty),
                    ("run", "Run it.", run)),
    ),
    Scenario(
        "uninitialised-values", "A buffer that is not saved comes back as whatever was in memory.", silent=True,
        variant="buffer",
        steps=steps(("load", "Load a model with such a buffer.", load_code_with_unsaved_buffer),),
    ),
    Scenario(
        "offload-notice", "A notice, and no error.",
        steps(("load", "Load with the last two blocks on disk.", notice),
              ("run", "Keep what was printed.", keep_the_notice)),
    ),
)  # fmt: skip
