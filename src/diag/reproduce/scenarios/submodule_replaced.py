"""submodule-replaced: a module was swapped for a new one after loading."""

from diag.reproduce.common import LOAD_WITH_DISK, REMEMBER, RUN
from diag.reproduce.scenario import Scenario, Stage, Step


def replace_mlp(stage: Stage) -> None:
    import torch

    torch.manual_seed(0)
    layer = stage.model.model.layers[5]  # one of the blocks on disk
    layer.mlp = type(layer.mlp)(stage.model.config)


SCENARIO = Scenario(
    cause="submodule-replaced",
    teaches="The answer is finite, fluent and wrong.",
    steps=(REMEMBER, LOAD_WITH_DISK, Step("break", "Put another MLP in.", replace_mlp), RUN),
    silent=True,
)
