"""offload-notice: accelerate says where it put the weights; that is no error."""

from diag.reproduce.common import Scenario, Stage, disk_map, step


@step("load", "Load with the last two blocks on disk.")
def notice(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    offload = stage.folder / "offload"
    AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map=disk_map(), offload_folder=offload)
    return "accelerate says where it put the weights"


@step("run", "Keep what was printed.")
def keep_the_notice(stage: Stage) -> str:
    stage.text = "\n".join(note for note in stage.notes if "meta device" in note)
    return stage.text


SCENARIO = Scenario("offload-notice", "A notice, and no error.", (notice, keep_the_notice))
