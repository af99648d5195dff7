"""submodule-replaced: a module was swapped for a new one after loading."""

from diag.reproduce.common import Scenario, Stage, load_with_disk, remember_answer, run, step


@step("break", "Put another MLP in.")
def replace_mlp(stage: Stage) -> None:
    import torch

    torch.manual_seed(0)
    layer = stage.model.model.layers[5]  # one of the blocks on disk
    layer.mlp = type(layer.mlp)(stage.model.config)


STEPS = (remember_answer, load_with_disk, replace_mlp, run)
SCENARIO = Scenario("submodule-replaced", "The answer is finite, fluent and wrong.", STEPS, silent=True)
