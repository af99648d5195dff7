"""Asks a model one question, twice, and keeps the answer as plain arrays that can be compared and stored."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diag.errors import CouldNotJudgeError
from diag.notes import collecting
from diag.tensors import accelerator_type

DEFAULT_PROMPT = "The capital of France is"
NEW_TOKENS = 8  # enough for faults that come with the cache, cheap enough for every cell
_MAX_POSITIONS = 64


@dataclass(frozen=True)
class Answer:
    """What a model answered to a probe.

    `outputs` is (positions, vocabulary) float32 logits, or hidden states for a model without a language head;
    `tokens` the greedy continuation (empty where the model can't generate), `text` its decoded form, `repeatable`
    whether a second run gave the same bits, `seconds` one forward, `problem` why the answer can't be right at all.
    """

    outputs: np.ndarray = field(repr=False)
    tokens: tuple[int, ...] = ()
    text: str = ""
    repeatable: bool = True
    seconds: float = 0.0
    probe: str = ""
    problem: str = ""

    def to_bytes(self) -> bytes:
        """One self-contained record (numpy's own format, no pickle)."""
        facts = {k: v for k, v in self.__dict__.items() if k != "outputs"}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, outputs=self.outputs, facts=np.array(json.dumps(facts)))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Answer:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            facts = json.loads(str(stored["facts"]))
            return cls(stored["outputs"], **{**facts, "tokens": tuple(facts["tokens"])})


def ask(model: Any, probe: str | None = None, folder: str | None = None, notes: list[str] | None = None) -> Answer:
    """Runs the probe twice and generates a few tokens; leaves the model as it was.

    `probe` is a prompt, `package.module:function(model)` returning a tensor, or None for the default. `folder` is
    where the tokenizer is; without one, fixed token ids are used. Warnings are added to `notes`.
    Raises what the model raises, and CouldNotJudgeError where no input can be made for it.
    """
    with _ready(model), collecting([] if notes is None else notes):
        if probe is not None and _is_function(probe):
            return _ask_function(model, probe)
        inputs, tokenizer, name = make_inputs(model, probe, folder)
        start = time.perf_counter()
        first = _forward(model, inputs)
        seconds = time.perf_counter() - start
        second = _forward(model, inputs)
        problem = _problem(first)
        if problem:
            return Answer(np.zeros((0, 0), np.float32), repeatable=False, seconds=seconds, probe=name, problem=problem)
        one, two = _to_array(first), _to_array(second)
        tokens = _generate(model, inputs)
        text = tokenizer.decode(tokens, skip_special_tokens=True) if tokenizer is not None and tokens else ""
        return Answer(one, tokens, text, _same_bits(one, two), seconds, name)


def _is_function(probe: str) -> bool:
    module, colon, name = probe.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _ask_function(model: Any, probe: str) -> Answer:
    from diag.loading import import_function

    function = import_function(probe, "probe")
    start = time.perf_counter()
    first = function(model)
    seconds = time.perf_counter() - start
    second = function(model)
    problem = _problem(first)
    if problem:
        return Answer(np.zeros((0, 0), np.float32), repeatable=False, seconds=seconds, probe=probe, problem=problem)
    one, two = _to_array(first), _to_array(second)
    return Answer(one, (), "", _same_bits(one, two), seconds, probe)


@contextlib.contextmanager
def _ready(model: Any) -> Iterator[None]:
    """Evaluation mode and no gradients; every module's training flag comes back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def make_inputs(model: Any, probe: str | None, folder: str | None) -> tuple[dict[str, torch.Tensor], Any, str]:
    """Inputs on the device where the model's first layer runs, the tokenizer if there is one, and the probe's name."""
    config = model.config
    tokenizer = _tokenizer(folder) if folder else None
    name = probe or DEFAULT_PROMPT
    if tokenizer is not None:
        ids = tokenizer(name, return_tensors="pt").input_ids[:, :_MAX_POSITIONS]
    else:
        if probe is not None:
            raise CouldNotJudgeError(
                "a text probe needs a tokenizer, and this model has none beside it.",
                why="the probe was given as text." + (f" Looked in {folder!r}." if folder else ""),
                next_step="leave the probe out for fixed token ids, or give package.module:function.",
            )
        ids, name = _fixed_ids(config), "fixed token ids"
    inputs = {"input_ids": ids} if _takes(model, "input_ids") else {}
    _add_image(model, inputs)
    if not inputs:
        raise CouldNotJudgeError(
            f"diag can't make an input for {type(model).__name__}.",
            why=f"its main input is {getattr(model, 'main_input_name', 'unknown')!r}.",
            next_step="give a probe: package.module:function that takes the model and returns a tensor.",
        )
    if getattr(config, "is_encoder_decoder", False):
        start = getattr(config, "decoder_start_token_id", None) or 0
        inputs["decoder_input_ids"] = torch.full((1, 1), start)
    device = input_device(model)
    return {key: value.to(device) for key, value in inputs.items()}, tokenizer, name


def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError):
        return None  # many checkpoints come without one; then fixed ids are asked


def _fixed_ids(config: Any) -> torch.Tensor:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = int(getattr(text, "vocab_size", 0) or 100)
    return torch.tensor([[(7 * i * i + 3) % max(size - 1, 2) + 1 if size > 2 else 1 for i in range(8)]])


def _takes(model: Any, name: str) -> bool:
    import inspect

    forward = getattr(type(model), "forward", None)
    return forward is not None and name in inspect.signature(forward).parameters


def _add_image(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """A fixed image, with as many image tokens in the text as the model's vision tower gives."""
    vision = getattr(model.config, "vision_config", None)
    alone = getattr(model, "main_input_name", "") == "pixel_values"
    if not _takes(model, "pixel_values") or (vision is None and not alone):
        return
    source = vision or model.config
    size, channels = getattr(source, "image_size", 224), getattr(source, "num_channels", 3)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((1, channels, height, width), generator=generator)
    token = getattr(model.config, "image_token_id", getattr(model.config, "image_token_index", None))
    if alone and "input_ids" not in inputs:
        inputs["pixel_values"] = pixels
    elif token is not None and "input_ids" in inputs and hasattr(source, "patch_size"):
        patches = (height // source.patch_size) * (width // source.patch_size)
        if getattr(model.config, "vision_feature_select_strategy", "default") == "full":
            patches += 1
        images = torch.full((1, patches), int(token))
        inputs["input_ids"] = torch.cat([inputs["input_ids"][:, :1], images, inputs["input_ids"][:, 1:]], dim=1)
        inputs["pixel_values"] = pixels


def input_device(model: Any) -> torch.device:
    """Where inputs belong: where the first layer runs. Never `model.device`, which is meta for an offloaded one."""
    from diag.hooks import align_hooks

    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    for module in (embedding, model):
        for hook in align_hooks(module) if module is not None else ():
            if hook.execution_device is not None:
                return _device(hook.execution_device, model)
    for tensor in (*(embedding.parameters() if embedding is not None else ()), *model.parameters()):
        if not tensor.is_meta:
            return tensor.device
    return torch.device("cpu")


def _device(device: Any, model: Any) -> torch.device:
    if isinstance(device, int):
        return torch.device(accelerator_type(model) or "cuda", device)
    return torch.device(device)


def _forward(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    extra = {"use_cache": False} if _takes(model, "use_cache") else {}
    output = model(**inputs, **extra)
    for name in ("logits", "last_hidden_state", "pooler_output"):
        value = getattr(output, name, None)
        if isinstance(value, torch.Tensor):
            return value
    for value in output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else [output]:
        if isinstance(value, torch.Tensor):
            return value
    raise CouldNotJudgeError(
        f"the answer of {type(model).__name__} holds no tensor.", next_step="give a probe that returns one."
    )


def _problem(output: Any) -> str:
    if not isinstance(output, torch.Tensor):
        return f"the probe returned a {type(output).__name__}, not a tensor"
    if output.is_meta:
        return "the answer is a meta tensor: it has a shape and no values"
    return ""


def _to_array(output: torch.Tensor) -> np.ndarray:
    """(positions, width) float32 on the host; bfloat16 and float16 fit into float32 exactly."""
    values = output.detach().to("cpu")
    values = values.to(torch.float32 if values.dtype != torch.float64 else torch.float64)
    width = values.shape[-1] if values.dim() else 1
    return np.ascontiguousarray(values.reshape(-1, width)[-_MAX_POSITIONS:].numpy())


def _same_bits(one: np.ndarray, two: np.ndarray) -> bool:
    return one.shape == two.shape and bool(np.array_equal(one, two, equal_nan=True))


def _generate(model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    can = getattr(model, "can_generate", None)
    if can is None or not can() or "input_ids" not in inputs:
        return ()
    arguments = {key: value for key, value in inputs.items() if key != "decoder_input_ids"}
    output = model.generate(
        **arguments, attention_mask=torch.ones_like(inputs["input_ids"]), max_new_tokens=NEW_TOKENS, do_sample=False,
        pad_token_id=_pad_token(model),
    )  # fmt: skip
    skip = 1 if getattr(model.config, "is_encoder_decoder", False) else inputs["input_ids"].shape[1]
    return tuple(int(token) for token in output[0, skip:].tolist())


def _pad_token(model: Any) -> int:
    config = getattr(model, "generation_config", model.config)
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(config, name, None)
        if value is not None:
            return int(value[0] if isinstance(value, (list, tuple)) else value)
    return 0
