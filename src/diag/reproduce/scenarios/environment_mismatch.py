"""environment-mismatch: model code for transformers 4 runs under transformers 5."""

from diag.reproduce.scenario import Scenario, Stage, step


@step("load", "Load it under transformers 5.")
def load_old_code(stage: Stage) -> None:
    from diag.reproduce.older_code import WithoutPostInit, saved_by

    stage.model = WithoutPostInit.from_pretrained(saved_by(WithoutPostInit, stage.folder))


TEACHES = "Model code for transformers 4 does not call post_init()."
SCENARIO = Scenario("environment-mismatch", TEACHES, (load_old_code,))
