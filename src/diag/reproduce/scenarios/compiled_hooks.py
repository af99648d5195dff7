"""compiled-hooks: torch.compile is asked for one whole graph of a model with hooks."""

from diag.reproduce.common import LOAD_WITH_DISK, token_ids
from diag.reproduce.scenario import Scenario, Stage, Step


def compile_fully(stage: Stage) -> None:
    import torch

    compiled = torch.compile(stage.model, fullgraph=True, backend="eager")
    compiled(token_ids())


SCENARIO = Scenario(
    cause="compiled-hooks",
    teaches="Hooks can't be part of one whole graph.",
    steps=(LOAD_WITH_DISK, Step("run", "Compile it with fullgraph=True and run it.", compile_fully)),
)
