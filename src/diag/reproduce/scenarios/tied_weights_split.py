"""tied-weights-split: embedding and head are one tensor, and went to two places or lost their tie."""

from diag.reproduce.common import Scenario, Stage, disk_map, load_plain, remember_answer, run, step


@step("load", "Load with the embedding on disk and the head on the CPU.")
def load_with_split_tie(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    # embedding and head are one tensor here, and the map sends them to two places
    folder, device_map = stage.folder / "offload", {**disk_map(), "model.embed_tokens": "disk", "lm_head": "cpu"}
    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map=device_map, offload_folder=folder)


@step("break", "Put another head in.")
def untie_the_head(stage: Stage) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    config = stage.model.config  # the embedding stays, the tie is gone
    stage.model.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


SPLIT = Scenario("tied-weights-split", "One tensor under two names can't be in two places.", (load_with_split_tie,))
LOST_STEPS = (remember_answer, load_plain, untie_the_head, run)
LOST = Scenario("tied-weights-split/lost", "A head of its own answers nonsense.", LOST_STEPS, silent=True)
