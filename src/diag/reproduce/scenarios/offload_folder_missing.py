"""offload-folder-missing: the map needs disk, and no folder was given."""

from diag.reproduce.common import Scenario, Stage, disk_map, step


@step("build", "Save the checkpoint as .bin.")
def write_bin_checkpoint(stage: Stage) -> str:
    import torch
    from transformers import AutoModelForCausalLM

    folder, state = stage.checkpoint(), AutoModelForCausalLM.from_pretrained(stage.checkpoint()).state_dict()
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return "the checkpoint is pytorch_model.bin now"


@step("load", "Load with disk in the map and no folder.")
def load_to_disk(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map=disk_map())


TEACHES, ASKED = "A .bin checkpoint can't be read in place.", {"device_map": disk_map()}
SCENARIO = Scenario("offload-folder-missing", TEACHES, (write_bin_checkpoint, load_to_disk), asked=ASKED)
