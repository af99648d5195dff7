"""tied-weights-split: embedding and head are one tensor, and went to two places or lost their tie."""

from diag.reproduce.common import disk_map, load_plain, remember_right_answer, run
from diag.reproduce.scenario import Scenario, Stage, step


@step("load", "Load with the embedding on disk and the head on the CPU.")
def load_with_split_tie(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    # embedding and head are one tensor here, and the map sends them to two places
    device_map = {**disk_map(), "model.embed_tokens": "disk", "lm_head": "cpu"}
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=device_map, offload_folder=stage.folder / "offload"
    )


@step("break", "Put another head in.")
def untie_the_head(stage: Stage) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    head = nn.Linear(stage.model.config.hidden_size, stage.model.config.vocab_size, bias=False)
    stage.model.lm_head = head  # the embedding stays, the tie is gone


SPLIT = Scenario(
    cause="tied-weights-split",
    teaches="One tensor under two names can't be in two places.",
    steps=(load_with_split_tie,),
)
LOST = Scenario(
    cause="tied-weights-split",
    variant="lost",
    teaches="A head of its own answers nonsense.",
    steps=(remember_right_answer, load_plain, untie_the_head, run),
    silent=True,
)
