"""device-map-incomplete: the map leaves modules without a device."""

from diag.reproduce.scenario import Scenario, Stage, step

# an older layout: the norm and the head are left out
GAP = {"model.embed_tokens": "cpu"} | {f"model.layers.{n}": "disk" if n > 3 else "cpu" for n in range(6)}


@step("load", "Load with a map that leaves out norm and head.")
def load_with_gap(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=GAP, offload_folder=stage.folder / "offload"
    )


@step("load", "Dispatch with a map that leaves out norm and head.")
def dispatch_with_gap(stage: Stage) -> None:
    from accelerate import dispatch_model
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    dispatch_model(stage.model, {"model.embed_tokens": "cpu", "model.layers": "disk"}, offload_dir=str(stage.folder))


LOAD = Scenario(
    cause="device-map-incomplete",
    teaches="With several devices in it, a map has to name everything.",
    steps=(load_with_gap,),
    asked={"device_map": GAP},
)
DISPATCH = Scenario(
    cause="device-map-incomplete",
    variant="dispatch",
    teaches="accelerate's own dispatch says it in other words.",
    steps=(dispatch_with_gap,),
)
