"""forward-bypasses-hook: the hook is still there, but the module's forward was replaced."""

from diag.reproduce.common import Scenario, Stage, load_with_disk, remember_answer, run, step


@step("break", "Patch one layer's forward.")
def patch_linear(stage: Stage) -> None:
    import types

    from torch import nn

    layer = stage.model.model.layers[5].self_attn.q_proj  # in one of the blocks on disk
    layer.forward = types.MethodType(nn.Linear.forward, layer)


@step("break", "Patch a norm's forward.")
def patch_norm(stage: Stage) -> None:
    import types

    norm = stage.model.model.layers[5].input_layernorm
    norm.forward = types.MethodType(type(norm).forward, norm)


SILENT_TEACHES = "A Linear without bias computes with random memory, and nothing is raised."
SILENT_STEPS = (remember_answer, load_with_disk, patch_linear, run)
SILENT = Scenario("forward-bypasses-hook", SILENT_TEACHES, SILENT_STEPS, silent=True)
NORM_TEACHES = "The same patch on a norm raises the headline error."
NORM = Scenario("forward-bypasses-hook/norm", NORM_TEACHES, (load_with_disk, patch_norm, run))
