"""hooks-removed: the hooks that bring offloaded weights in were taken off."""

from diag.reproduce.common import Scenario, Stage, load_with_disk, run, step


@step("break", "Take the hooks off.")
def remove_hooks(stage: Stage) -> None:
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(stage.model, recurse=True)


TEACHES = "The headline error: the first operand of a norm is a stranded weight."
SCENARIO = Scenario("hooks-removed", TEACHES, (load_with_disk, remove_hooks, run))
