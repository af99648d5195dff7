"""adapter-on-offloaded-base: a PEFT adapter is put on a base model with blocks on disk."""

import contextlib

from diag.reproduce.common import REMEMBER, RUN, disk_map, load_with_disk
from diag.reproduce.scenario import Scenario, Stage, Step
from diag.values.spec import LoadSpec


def make_adapter(stage: Stage) -> str:
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(str(stage.folder / "adapter"))
    return "an adapter for q_proj"


def put_adapter_on(stage: Stage) -> None:
    import peft

    adapter = str(stage.folder / "adapter")
    stage.spec = LoadSpec(str(stage.checkpoint()), "offload", adapter=adapter)
    with contextlib.chdir(stage.folder):  # PEFT writes a copy of the base's files below the current directory
        peft.PeftModel.from_pretrained(stage.model, adapter)


def put_adapter_on_relative(stage: Stage) -> str:
    import peft
    from transformers import AutoModelForCausalLM

    before = {file.name: file.read_bytes() for file in stage.checkpoint().glob("*.safetensors")}
    with contextlib.chdir(stage.folder):  # a path such as "checkpoint", as in a project's own folder
        base = AutoModelForCausalLM.from_pretrained("checkpoint", device_map=disk_map(), offload_folder="offload")
        with contextlib.suppress(NotImplementedError):
            peft.PeftModel.from_pretrained(base, "adapter")
    changed = [name for name, content in before.items() if (stage.checkpoint() / name).read_bytes() != content]
    return f"{len(changed)} of {len(before)} files of the base are other files now: {', '.join(sorted(changed))}"


def load_base_again(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    return "loading reported success"


MAKE_ADAPTER = Step("build", "Make a small adapter.", make_adapter)

PUT_ON = Scenario(
    cause="adapter-on-offloaded-base",
    teaches="PEFT dispatches the base a second time.",
    steps=(
        MAKE_ADAPTER,
        Step("load", "Load the base with two blocks on disk.", load_with_disk),
        Step("run", "Put the adapter on.", put_adapter_on),
    ),
)
FILES_REWRITTEN = Scenario(
    cause="adapter-on-offloaded-base",
    variant="files-rewritten",
    teaches="PEFT writes over the files of the base (here of a copy).",
    steps=(
        REMEMBER,
        MAKE_ADAPTER,
        Step("break", "Put it on a base at a relative path, two blocks on disk.", put_adapter_on_relative),
        Step("load", "Load the base again, without adapter.", load_base_again),
        RUN,
    ),
    silent=True,
)
