"""constructor-on-meta: the model's code needs numbers while it is built on meta."""

from diag.reproduce.scenario import Scenario, Stage, step


@step("load", "Load a model whose code was written for transformers 4.")
def load_old_code(stage: Stage) -> None:
    from diag.reproduce.older_code import DropPathModel, saved_by

    stage.model = DropPathModel.from_pretrained(saved_by(DropPathModel, stage.folder))


TEACHES = "The constructor asks a tensor for a number, and there is none yet."
SCENARIO = Scenario("constructor-on-meta", TEACHES, (load_old_code,))
