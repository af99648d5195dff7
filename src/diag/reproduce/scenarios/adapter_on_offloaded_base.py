"""adapter-on-offloaded-base: a PEFT adapter is put on a base model with blocks on disk."""

import contextlib

from diag.reproduce.common import Scenario, Stage, disk_map, load_plain, load_with_disk, remember_answer, run, step
from diag.values.spec import LoadSpec


@step("build", "Make a small adapter.")
def make_adapter(stage: Stage) -> str:
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(str(stage.folder / "adapter"))
    return "an adapter for q_proj"


@step("run", "Put the adapter on.")
def put_adapter_on(stage: Stage) -> None:
    import peft

    adapter = str(stage.folder / "adapter")
    stage.spec = LoadSpec(str(stage.checkpoint()), "offload", adapter=adapter)
    with contextlib.chdir(stage.folder):  # PEFT writes a copy of the base's files below the current directory
        peft.PeftModel.from_pretrained(stage.model, adapter)


@step("break", "Put it on a base at a relative path, two blocks on disk.")
def rewrite_base(stage: Stage) -> str:
    import peft
    from transformers import AutoModelForCausalLM

    before = {file.name: file.read_bytes() for file in stage.checkpoint().glob("*.safetensors")}
    with contextlib.chdir(stage.folder):  # a path such as "checkpoint", as in a project's own folder
        base = AutoModelForCausalLM.from_pretrained("checkpoint", device_map=disk_map(), offload_folder="offload")
        with contextlib.suppress(NotImplementedError):
            peft.PeftModel.from_pretrained(base, "adapter")
    changed = [name for name, content in before.items() if (stage.checkpoint() / name).read_bytes() != content]
    return f"{len(changed)} of {len(before)} files of the base are other files now: {', '.join(sorted(changed))}"


PUT_ON_TEACHES = "PEFT dispatches the base a second time."
PUT_ON = Scenario("adapter-on-offloaded-base", PUT_ON_TEACHES, (make_adapter, load_with_disk, put_adapter_on))
REWRITTEN_TEACHES = "PEFT writes over the files of the base (here of a copy)."
LOAD_AGAIN = load_plain.saying("Load the base again, without adapter.")
REWRITTEN_STEPS = (remember_answer, make_adapter, rewrite_base, LOAD_AGAIN, run)
FILES_REWRITTEN = Scenario("adapter-on-offloaded-base/files-rewritten", REWRITTEN_TEACHES, REWRITTEN_STEPS, silent=True)
