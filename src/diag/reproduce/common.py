"""Parts that several scenarios share: steps that load and run, token ids, maps, answers."""

from __future__ import annotations

from typing import Any

from diag.reproduce.scenario import Stage

LAYERS = 6  # of the tiny sample


def token_ids() -> Any:
    """Ids that every sample knows."""
    import torch

    return torch.tensor([[5, 17, 42, 99, 7, 23]])


def disk_map() -> dict[str, str]:
    """A map that keeps everything on the CPU except the last two blocks, which go to disk."""
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    blocks = {f"model.layers.{n}": "disk" if n >= LAYERS - 2 else "cpu" for n in range(LAYERS)}
    return {**dict.fromkeys(names, "cpu"), **blocks}


def load_with_disk(stage: Stage) -> str:
    """The model with its last two blocks on disk, as device_map='auto' leaves it when memory is short."""
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=disk_map(), offload_folder=stage.folder / "offload"
    )
    return f"placed by {stage.model.hf_device_map}"


def remember_right_answer(stage: Stage) -> str:
    """Keeps the logits of the undamaged model as the reference."""
    from transformers import AutoModelForCausalLM

    stage.reference = logits(AutoModelForCausalLM.from_pretrained(stage.checkpoint()))
    return f"logits of {tuple(stage.reference.shape)}"


def logits(model: Any, ids: Any = None) -> Any:
    import torch

    with torch.no_grad():
        return model(token_ids() if ids is None else ids).logits


def run(stage: Stage) -> str:
    """One forward pass; its logits are the answer."""
    import torch

    stage.inputs = {"input_ids": token_ids()}
    with torch.no_grad():
        stage.answer = stage.model(**stage.inputs).logits
    return how_wrong(stage)


def how_wrong(stage: Stage) -> str:
    if stage.reference is None:
        return f"logits of {tuple(stage.answer.shape)} on {stage.answer.device}"
    gap = float((stage.answer.cpu() - stage.reference).abs().max())
    same = float((stage.answer.cpu().argmax(-1) == stage.reference.argmax(-1)).float().mean())
    return f"no exception; logits differ by up to {gap:.3g}, {same:.0%} of the next words agree"
