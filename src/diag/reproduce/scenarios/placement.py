"""Scenarios: maps, devices and memory; those that need a GPU play on simulated ones."""

from __future__ import annotations

from diag.reproduce.common import disk_map, token_ids
from diag.reproduce.scenario import Scenario, Stage, steps

# an older layout: the norm and the head are left out
GAP = {"model.embed_tokens": "cpu"} | {f"model.layers.{n}": "disk" if n > 3 else "cpu" for n in range(6)}


def load_on_gpu(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map={"": 0})
    return f"the model is on {stage.model.device}"


def run_with_inputs_on_cpu(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids()}
    stage.model(**stage.inputs)


def park_a_layer(stage: Stage) -> None:
    stage.model.model.layers[3].to("cpu")


def run_on_gpu(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids().to(stage.model.device)}
    stage.model(**stage.inputs)


def load_with_gap(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=GAP, offload_folder=stage.folder / "offload"
    )


def dispatch_with_gap(stage: Stage) -> None:
    from accelerate import dispatch_model
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    dispatch_model(stage.model, {"model.embed_tokens": "cpu", "model.layers": "disk"}, offload_dir=str(stage.folder))


def write_bin_checkpoint(stage: Stage) -> str:
    import torch
    from transformers import AutoModelForCausalLM

    folder, state = stage.checkpoint(), AutoModelForCausalLM.from_pretrained(stage.checkpoint()).state_dict()
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return "the checkpoint is pytorch_model.bin now"


def load_to_disk_without_folder(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map=disk_map())


def load_nf4_beside_others(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from diag.machine.here import free_memory

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map="auto", quantization_config=config, max_memory=free_memory()
    )


def load_too_large(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map={"": 0})


PLACEMENT_SCENARIOS = (
    Scenario(
        "device-mismatch", "Without hooks nobody moves the inputs.", hardware="300MiB+8GiB",
        steps=steps(("load", "Load everything on one GPU.", load_on_gpu),
                    ("run", "Run it with inputs on the CPU.", run_with_inputs_on_cpu)),
    ),
    Scenario(
        "device-mismatch", "A layer that was parked on the CPU.", hardware="300MiB+8GiB", variant="parked",
        steps=steps(("load", "Load everything on one GPU.", load_on_gpu),
                    ("break", "Park a layer on the CPU.", park_a_layer),
                    ("run", "Run it.", run_on_gpu)),
    ),
    Scenario(
        "device-map-incomplete", "With several devices in it, a map has to name everything.",
        steps=steps(("load", "Load with a map that leaves out norm and head.", load_with_gap),),
        asked={"device_map": GAP},
    ),
    Scenario(
        "device-map-incomplete", "accelerate's own dispatch says it in other words.", variant="dispatch",
        steps=steps(("load", "Dispatch with a map that leaves out norm and head.", dispatch_with_gap),)
    ),
    Scenario(
        "offload-folder-missing", "A .bin checkpoint can't be read in place.",
        steps=steps(("build", "Save the checkpoint as .bin.", write_bin_checkpoint),
                    ("load", "Load with disk in the map and no folder.", load_to_disk_without_folder)),
        asked={"device_map": disk_map()},
    ),
    Scenario(
        "memory-already-taken", "The card is large enough; what is free is not.", hardware="3MiB-2900KiB+8GiB",
        steps=steps(("load", "Load nf4 with device_map='auto' beside another worker.", load_nf4_beside_others),),
        asked={"device_map": "auto", "quantization": "nf4"},
    ),
    Scenario(
        "out-of-memory", "A device that is smaller than the model.", hardware="600KiB+8GiB",
        steps=steps(("load", "Load everything on it.", load_too_large),),
        asked={"device_map": "single"},
    ),
)  # fmt: skip
