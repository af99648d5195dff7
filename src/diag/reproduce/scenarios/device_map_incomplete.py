"""device-map-incomplete: the map leaves modules without a device."""

from diag.reproduce.scenario import Scenario, Stage, step

# an older layout: the norm and the head are left out
GAP = {"model.embed_tokens": "cpu"} | {f"model.layers.{n}": "disk" if n > 3 else "cpu" for n in range(6)}


@step("load", "Load with a map that leaves out norm and head.")
def load_with_gap(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    offload = stage.folder / "offload"
    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map=GAP, offload_folder=offload)


@step("load", "Dispatch with a map that leaves out norm and head.")
def dispatch_with_gap(stage: Stage) -> None:
    from accelerate import dispatch_model
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    dispatch_model(stage.model, {"model.embed_tokens": "cpu", "model.layers": "disk"}, offload_dir=str(stage.folder))


LOAD_TEACHES = "With several devices in it, a map has to name everything."
LOAD = Scenario("device-map-incomplete", LOAD_TEACHES, (load_with_gap,), asked={"device_map": GAP})
DISPATCH_TEACHES = "accelerate's own dispatch says it in other words."
DISPATCH = Scenario("device-map-incomplete/dispatch", DISPATCH_TEACHES, (dispatch_with_gap,))
