"""compiled-hooks: torch.compile is asked for one whole graph of a model with hooks."""

from diag.reproduce.common import Scenario, Stage, load_with_disk, step, token_ids


@step("run", "Compile it with fullgraph=True and run it.")
def compile_fully(stage: Stage) -> None:
    import torch

    compiled = torch.compile(stage.model, fullgraph=True, backend="eager")
    compiled(token_ids())


SCENARIO = Scenario("compiled-hooks", "Hooks can't be part of one whole graph.", (load_with_disk, compile_fully))
