"""training-offloaded-layers: layers on disk get no gradient."""

from diag.reproduce.common import Scenario, Stage, load_with_disk, step, token_ids


@step("run", "Train one step.")
def train_a_step(stage: Stage) -> str:
    import torch

    stage.model.train()
    optimizer = torch.optim.SGD([p for p in stage.model.parameters() if p.requires_grad], lr=0.1)
    before = float(stage.model(token_ids(), labels=token_ids()).loss)
    stage.model(token_ids(), labels=token_ids()).loss.backward()
    optimizer.step()
    trained = sum(p.grad is not None for p in stage.model.parameters())
    return f"loss was {before:.3f}; {trained} of {len(list(stage.model.parameters()))} parameters got a gradient"


TEACHES = "The step succeeds, and a third of the model learned nothing."
SCENARIO = Scenario("training-offloaded-layers", TEACHES, (load_with_disk, train_a_step), silent=True)
