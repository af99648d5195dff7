"""weight-used-outside-hook: an offloaded weight is read directly, outside its module's forward."""

from diag.reproduce.common import Scenario, Stage, load_embedding_on_disk, step, token_ids


@step("run", "Read the embedding's weight directly.")
def use_weight_directly(stage: Stage) -> None:
    import torch

    stage.inputs = {"input_ids": token_ids()}
    embedding = stage.model.get_input_embeddings()
    hidden = embedding(stage.inputs["input_ids"])  # through the module: fine
    torch.where(hidden > 0, hidden, embedding.weight[0])  # past the module: the placeholder


TEACHES = "The same model answers right when its modules are called."
SCENARIO = Scenario("weight-used-outside-hook", TEACHES, (load_embedding_on_disk, use_weight_directly))
