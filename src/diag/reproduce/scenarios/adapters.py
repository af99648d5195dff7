"""What the scenarios of adapter-on-offloaded-base do: make an adapter, put it on, and look at the base's files."""

from __future__ import annotations

import contextlib

from diag.reproduce.common import disk_map
from diag.reproduce.scenario import Stage
from diag.values.spec import LoadSpec


def make_adapter(stage: Stage) -> str:
    import peft
    from transformers import AutoModelForCausalLM

    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(stage.checkpoint()), peft.LoraConfig(r=2, target_modules=["q_proj"])
    )
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
