"""From a recipe to a checkpoint folder: seeded weights that matter, shards, tokenizer, processor."""

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers.utils import logging

from diag.loading.samples.catalog import Sample
from diag.loading.samples.words import IMAGE, SPECIAL, tokenizer

GAIN = 2.0  # above one, so that the layers outweigh the embedding they are added to
SMALL_STD = 0.1  # of biases, and of norm weights around one


def make(sample: Sample, target: Path) -> None:
    """Writes the sample's whole checkpoint into the empty folder `target`. The same bytes on every run.

    The caller's random state, default device and log level are left as they were.
    """
    with quiet(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        config = transformers.AutoConfig.for_model(**sample.config)  # type: ignore[arg-type]
        model = getattr(transformers, sample.architecture)(config).to(getattr(torch, sample.dtype)).eval()
        fill(model, sample.embedding_std)
        model.save_pretrained(target, max_shard_size=sample.shard_nbytes)
        words = tokenizer()
        words.save_pretrained(target)
        if "vision_config" in sample.config:
            _processor(config, words).save_pretrained(target)


@torch.no_grad()
def fill(model: nn.Module, embedding_std: float) -> None:
    """Gives every parameter seeded values of a size at which each layer moves the answer.

    The usual 0.02 makes a small model nearly linear, so a broken layer would hardly show. The seed is the
    parameter's name: a tensor keeps its values when another is added.
    """
    for name, parameter in model.named_parameters():
        seeded = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(parameter.shape, generator=seeded, dtype=torch.float32)
        embedding = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding)
        std = embedding_std if embedding else _std(parameter)
        parameter.copy_(noise * std + (1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0))


def _std(parameter: torch.Tensor) -> float:
    if parameter.ndim < 2:
        return SMALL_STD
    if parameter.ndim == 4:  # a convolution: outputs first
        return GAIN * (parameter.shape[0] / parameter.numel()) ** 0.5
    rows, columns = parameter.shape[-2:]  # Linear, Conv1D and packed experts disagree about which is the input
    return GAIN * (rows * columns) ** -0.25


def _processor(config, words):
    try:  # the one that needs no torchvision; early transformers 5 gives it the plain name
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    except ImportError:
        CLIPImageProcessorPil = transformers.CLIPImageProcessor  # type: ignore[misc, assignment]
    vision = config.vision_config
    side = vision.image_size
    return transformers.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=words,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token=SPECIAL[IMAGE],
        num_additional_image_tokens=1,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without bars and notices, which would be taken for the user's own load."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
