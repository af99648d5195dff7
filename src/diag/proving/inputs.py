"""One input for any model: tokens for a text model, an image as well where the model sees, sound where it hears."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from diag.errors import CouldNotJudgeError
from diag.proving.savedrequest import Tensors, is_saved_request, read_request

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_PROMPT = "The capital of France is"
MAX_POSITIONS = 64


@dataclass(frozen=True)
class Inputs:
    """Arguments for the model's forward, the tokenizer if there is one, and the probe's name."""

    tensors: Tensors
    tokenizer: PreTrainedTokenizerBase | None
    name: str


def make_inputs(base: PreTrainedModel, probe: str | None, folder: str | None, device: torch.device) -> Inputs:
    """The input on `device` for a prompt, a saved request, or None for the default of this kind of model.

    `base` is the model below an adapter. `folder` is where the tokenizer and processor are; without a tokenizer fixed
    token ids are used. Raises CouldNotJudgeError where no input can be made.
    """
    tokenizer = _tokenizer(folder, base.config) if folder else None
    sees = takes(base, "pixel_values") and takes(base, "input_ids") and hasattr(base.config, "vision_config")
    if probe is not None and is_saved_request(probe):
        inputs = Inputs(_replayed(base, probe, tokenizer), tokenizer, probe)
    elif folder and sees and (processed := _processed(base, probe or DEFAULT_PROMPT, folder)):
        inputs = Inputs(processed, tokenizer, f"{probe or DEFAULT_PROMPT} (with an image)")
    else:
        inputs = _plain(base, probe, folder, tokenizer)
    if getattr(base.config, "is_encoder_decoder", False) and "decoder_input_ids" not in inputs.tensors:
        start = getattr(base.config, "decoder_start_token_id", None) or 0
        inputs.tensors["decoder_input_ids"] = torch.full((1, 1), start)
    return replace(inputs, tensors={name: tensor.to(device) for name, tensor in inputs.tensors.items()})


def takes(base: PreTrainedModel, name: str) -> bool:
    """Whether the model's forward has an argument of this name."""
    return name in inspect.signature(type(base).forward).parameters


def _plain(
    model: PreTrainedModel, probe: str | None, folder: str | None, tokenizer: PreTrainedTokenizerBase | None
) -> Inputs:
    name = probe or DEFAULT_PROMPT
    if tokenizer is not None:
        ids = tokenizer(name, return_tensors="pt").input_ids[:, :MAX_POSITIONS]
    elif probe is not None:
        raise CouldNotJudgeError(
            "a text probe needs a tokenizer, and this model has none beside it.",
            why="the probe was given as text." + (f" Looked in {folder!r}." if folder else ""),
            next_step="leave the probe out for fixed token ids, or give a saved request or package.module:function.",
        )
    else:
        size, name = _vocabulary(model.config), "fixed token ids"
        ids = torch.tensor([[(7 * i * i + 3) % max(size - 1, 2) + 1 if size > 2 else 1 for i in range(8)]])
    tensors = {"input_ids": ids} if takes(model, "input_ids") else {}
    _add_image(model, tensors)
    _add_sound(model, tensors)
    if not tensors:
        raise CouldNotJudgeError(
            f"diag can't make an input for {type(model).__name__}.",
            why=f"its main input is {getattr(model, 'main_input_name', 'unknown')!r}.",
            next_step="give a saved request, or package.module:function that takes the model and returns a tensor.",
        )
    if "pixel_values" in tensors:
        name = f"{name} (with an image)" if "input_ids" in tensors else "a fixed image"
    elif "input_ids" not in tensors:
        name = "a fixed sound"
    return Inputs(tensors, tokenizer, name)


def _replayed(model: PreTrainedModel, path: str, tokenizer: PreTrainedTokenizerBase | None) -> Tensors:
    tensors = read_request(path, tokenizer, getattr(model, "dtype", None))
    unknown = [name for name in tensors if not takes(model, name)]
    if unknown == ["token_type_ids"]:  # tokenizers give them to models that have none
        tensors.pop("token_type_ids")
    elif unknown:
        names = [name for name in inspect.signature(type(model).forward).parameters if name != "self"]
        what = f"the saved request {path!r} has {unknown[0]!r}, which {type(model).__name__} does not take."
        why = f"its forward takes: {', '.join(names[:12])}."
        raise CouldNotJudgeError(what, why=why, next_step="name the tensors after the arguments of forward.")
    return tensors


def _tokenizer(folder: str, config: PretrainedConfig) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder; None where there is none that fits, and then fixed ids are asked.

    From a folder without one, transformers 5 builds an empty tokenizer of the model's kind, whose texts have no tokens.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        ids = tokenizer(DEFAULT_PROMPT).input_ids
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError):
        return None
    words = len(set(ids) - {tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id})
    return tokenizer if words and max(ids) < _vocabulary(config) else None


def _vocabulary(config: PretrainedConfig) -> int:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "vocab_size", 0) or 100)


def _processed(model: PreTrainedModel, prompt: str, folder: str) -> Tensors | None:
    """Prompt and image through the model's own processor; None where it has none that works without extras."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        if getattr(processor, "image_processor", None) is None:
            return None
        text = f"{getattr(processor, 'image_token', '<image>')} {prompt}"
        if getattr(processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        done = processor(text=text, images=_picture(), return_tensors="pt")
    except Exception:  # processors need torchvision, PIL or files that a checkpoint may lack; each raises its own
        return None
    dtype = getattr(model, "dtype", None)
    tensors = {name: value for name, value in done.items() if isinstance(value, torch.Tensor) and takes(model, name)}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def _picture() -> Image:
    """A picture with colours and edges, the same on every machine."""
    import numpy as np
    from PIL import Image

    down, across = np.mgrid[0:224, 0:224]
    return Image.fromarray(np.stack([across, down, (across // 32 + down // 32) % 2 * 255], -1).astype("uint8"))


def _add_image(model: PreTrainedModel, tensors: Tensors) -> None:
    """A fixed image, with as many image tokens in the text as the model's vision tower gives."""
    vision = getattr(model.config, "vision_config", None)
    alone = getattr(model, "main_input_name", "") == "pixel_values"
    if not takes(model, "pixel_values") or (vision is None and not alone):
        return
    source, ids = vision or model.config, tensors.get("input_ids")
    size, channels = getattr(source, "image_size", 224), getattr(source, "num_channels", 3)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    token = getattr(model.config, "image_token_id", getattr(model.config, "image_token_index", None))
    fits = alone if ids is None else vision is not None and token is None  # both towers side by side, as in CLIP
    if ids is not None and token is not None and hasattr(source, "patch_size"):
        patches = (height // source.patch_size) * (width // source.patch_size)
        patches += getattr(model.config, "vision_feature_select_strategy", "default") == "full"
        tensors["input_ids"] = torch.cat([ids[:, :1], torch.full((1, patches), int(token)), ids[:, 1:]], dim=1)
        fits = True
    if fits:
        tensors["pixel_values"] = _noise(model, 1, channels, height, width)


def _add_sound(model: PreTrainedModel, tensors: Tensors) -> None:
    main, config = getattr(model, "main_input_name", ""), model.config
    spectrogram = (getattr(config, "num_mel_bins", 80), 2 * getattr(config, "max_source_positions", 1500))
    shapes = {"input_features": spectrogram, "input_values": (16_000,)}
    if main in shapes and takes(model, main):
        tensors.pop("input_ids", None)
        tensors[main] = _noise(model, 1, *shapes[main])


def _noise(model: PreTrainedModel, *shape: int) -> torch.Tensor:
    """The same numbers on every machine, in the model's dtype."""
    numbers = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return numbers.to(getattr(model, "dtype", torch.float32))
