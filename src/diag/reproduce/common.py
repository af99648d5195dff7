"""What scenarios are written with: steps and parts of steps that several share. The tiny sample has six blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diag.reproduce.scenario import Scenario as Scenario
from diag.reproduce.scenario import Stage, step
from diag.values.text import error_line

if TYPE_CHECKING:
    import torch


def token_ids() -> torch.Tensor:
    """Ids that every sample knows, of shape (1, 6)."""
    import torch

    return torch.tensor([[5, 17, 42, 99, 7, 23]])


def disk_map() -> dict[str, str]:
    """A map that keeps everything on the CPU except the last two blocks, which go to disk."""
    names = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    blocks = {f"model.layers.{n}": "disk" if n >= 4 else "cpu" for n in range(6)}
    return {**dict.fromkeys(names, "cpu"), **blocks}


def logits(model: Any) -> torch.Tensor:
    """What the model answers for `token_ids()`."""
    import torch

    with torch.no_grad():
        return model(token_ids()).logits


def error_of(call: Callable[..., object], *arguments: object) -> str:
    """The first line of what a call raises; empty where it raises nothing."""
    try:
        call(*arguments)
    except Exception as error:
        return error_line(error)
    return ""


def checkpoint_state(stage: Stage) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint's safetensors files."""
    from safetensors.torch import load_file

    files = sorted(stage.checkpoint().glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@step("load", "Load it.")
def load_plain(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    return "loading reported success"


@step("load", "Load with the last two blocks on disk.")
def load_with_disk(stage: Stage) -> str:
    """As device_map='auto' leaves it when memory is short."""
    from transformers import AutoModelForCausalLM

    folder = stage.folder / "offload"
    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map=disk_map(), offload_folder=folder)
    return f"placed by {stage.model.hf_device_map}"


@step("load", "Load with the embedding on disk.")
def load_embedding_on_disk(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    folder, device_map = stage.folder / "offload", {**disk_map(), "model.embed_tokens": "disk", "lm_head": "disk"}
    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map=device_map, offload_folder=folder)
    return f"model.device is {stage.model.device}"


@step("load", "Load everything on one GPU.")
def load_on_gpu(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map={"": 0})
    return f"the model is on {stage.model.device}"


@step("build", "Remember the right answer.")
def remember_answer(stage: Stage) -> str:
    from transformers import AutoModelForCausalLM

    stage.reference = logits(AutoModelForCausalLM.from_pretrained(stage.checkpoint()))
    return f"logits of {tuple(stage.reference.shape)}"


@step("run", "Run it.")
def run(stage: Stage) -> str:
    import torch

    stage.inputs = {"input_ids": token_ids()}
    with torch.no_grad():
        stage.answer = stage.model(**stage.inputs).logits
    return compared(stage.answer, stage.reference)


def compared(answer: torch.Tensor, reference: torch.Tensor | None) -> str:
    """How far an answer is from the right one, in words; without a reference, what it is."""
    if reference is None:
        return f"logits of {tuple(answer.shape)} on {answer.device}"
    gap = float((answer.cpu() - reference).abs().max())
    same = float((answer.cpu().argmax(-1) == reference.argmax(-1)).float().mean())
    return f"no exception; logits differ by up to {gap:.3g}, {same:.0%} of the next words agree"
