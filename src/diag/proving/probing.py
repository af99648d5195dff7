"""Asks a model one question, twice, and keeps the answer as plain arrays that can be compared and stored."""

from __future__ import annotations

import contextlib
import io
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from diag.errors import CouldNotJudgeError, DiagError
from diag.loading.notes import collecting
from diag.models.adapters import without_adapter
from diag.models.devices import input_device
from diag.proving.inputs import MAX_POSITIONS, Inputs, make_inputs, takes
from diag.values.functions import import_function, is_function_name
from diag.values.text import error_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEW_TOKENS = 8  # enough for faults that come with the cache, cheap enough for every cell


@dataclass(frozen=True)
class Answer:
    """What a model answered to a probe.

    `outputs` is (positions, vocabulary) float32 logits, or hidden states for a model without a language head;
    `tokens` the greedy continuation (empty where the model can't generate), `text` its decoded form, `repeatable`
    whether a second run gave the same bits, `seconds` one forward, `problem` why the answer can't be right at all,
    `not_asked` why a model that can generate was not asked to. `unfilled` are tensors that the checkpoint lacks and
    the answer needs, `dtype` the main one (both known of a twin).
    """

    outputs: np.ndarray = field(repr=False)
    tokens: tuple[int, ...] = ()
    text: str = ""
    repeatable: bool = True
    seconds: float = 0.0
    probe: str = ""
    problem: str = ""
    not_asked: str = ""
    unfilled: tuple[str, ...] = ()
    dtype: str = ""

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
            lists = {name: tuple(value) for name, value in facts.items() if isinstance(value, list)}
            return cls(stored["outputs"], **{**facts, **lists})


def ask(
    model: nn.Module,
    probe: str | None = None,
    folder: str | None = None,
    notes: list[str] | None = None,
    generate: bool = True,
    device: torch.device | None = None,
) -> Answer:
    """Runs the probe twice and generates a few tokens (not without `generate`); leaves the model as it was.

    `probe` is a prompt, a saved request (`request.json` or `.safetensors`), `package.module:function(model)` returning
    a tensor, or None for the default. `folder` is where the tokenizer is; without one, fixed token ids are used.
    `device` is where inputs go, for a caller that knows it. Warnings are added to `notes`. Raises what the model
    raises, and CouldNotJudgeError where no input can be made.
    """
    with _ready(model), collecting([] if notes is None else notes, show_bars=False):
        base, device = cast("PreTrainedModel", without_adapter(model)), device or input_device(model)
        if probe is not None and is_function_name(probe):
            function = import_function(probe, "probe")
            answer = _twice(lambda: _asked(function, model, probe), probe)
            if answer.problem or not generate:
                return answer
            try:  # also after a function, from the default prompt: some faults come with the cache
                return _with_generation(answer, model, base, make_inputs(base, None, folder, device))
            except CouldNotJudgeError:
                return answer
        inputs = make_inputs(base, probe, folder, device)
        no_cache = {"use_cache": False} if takes(base, "use_cache") and "use_cache" not in inputs.tensors else {}
        whose = f"the answer of {type(model).__name__}"
        answer = _twice(lambda: _tensor_in(model(**inputs.tensors, **no_cache), whose), inputs.name)
        return answer if answer.problem or not generate else _with_generation(answer, model, base, inputs)


def _asked(function: Callable[..., object], model: nn.Module, probe: str) -> torch.Tensor:
    """What the user's function returns. Raises CouldNotJudgeError where it, and not the model, is at fault."""
    try:
        value = _tensor_in(function(model), f"the probe {probe}")
    except DiagError:
        raise
    except Exception as e:
        if any(frame.filename == torch.nn.modules.module.__file__ for frame in traceback.extract_tb(e.__traceback__)):
            raise  # the model was running
        raise CouldNotJudgeError(
            f"the probe {probe!r} raised {error_line(e)}",
            why="it came from the probe's own code, while no module of the model ran.",
            next_step="correct the probe: it takes the model and returns a tensor.",
        ) from e
    if not isinstance(value, torch.Tensor):
        what = f"the probe {probe!r} returned a {type(value).__name__}, not a tensor."
        next_step = "return the logits, or another tensor that the model computed."
        raise CouldNotJudgeError(what, why="answers are compared as numbers.", next_step=next_step)
    return value


def _twice(run: Callable[[], object], name: str) -> Answer:
    start = time.perf_counter()
    first = run()
    seconds = time.perf_counter() - start
    second = run()
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        problem = f"the model returned a {type(first).__name__}, not a tensor"
    elif first.is_meta:
        problem = "the answer is a meta tensor: it has a shape and no values"
    else:
        one, two = _to_array(first), _to_array(second)
        repeatable = one.shape == two.shape and bool(np.array_equal(one, two, equal_nan=True))
        return Answer(one, repeatable=repeatable, seconds=seconds, probe=name)
    return Answer(np.zeros((0, 0), np.float32), repeatable=False, seconds=seconds, probe=name, problem=problem)


def makes_ids_on_meta(model: nn.Module, error: Exception) -> str:
    """In a sentence, that generate() failed for ids that it made on model.device, the first parameter's; or nothing."""
    if "meta tensor" not in str(error) or str(getattr(model, "device", "")) != "meta":
        return ""
    return (
        f"generate() of {type(model).__name__} makes ids of its own on model.device, which is meta while its first "
        f"parameter is offloaded ({type(error).__name__}); diag.materialise(model) first"
    )


@contextlib.contextmanager
def _ready(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; every module's training flag comes back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def _tensor_in(output: object, whose: str) -> object:
    """The logits, or the last hidden state, or the first tensor of what came back."""
    names = ("logits", "last_hidden_state", "logits_per_image", "pooler_output")
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else (output,)
    candidates = (*(getattr(output, name, None) for name in names), *values)
    found = next((value for value in candidates if isinstance(value, torch.Tensor)), None)
    if found is None and not (output is None or isinstance(output, (str, int, float, bool, list))):
        raise CouldNotJudgeError(f"{whose} holds no tensor.", next_step="give a probe that returns one.")
    return output if found is None else found  # what is no tensor is named by whoever asked


def _to_array(output: torch.Tensor) -> np.ndarray:
    """(positions, width) float32 on the host; bfloat16 and float16 fit into float32 exactly."""
    values = output.detach().to("cpu")
    values = values.to(torch.float32 if values.dtype != torch.float64 else torch.float64)
    width = values.shape[-1] if values.dim() else 1
    return np.ascontiguousarray(values.reshape(-1, width)[-MAX_POSITIONS:].numpy())


def _with_generation(answer: Answer, model: nn.Module, base: PreTrainedModel, inputs: Inputs) -> Answer:
    """The answer with some tokens of a greedy continuation, where the model can generate from these inputs."""
    can, main = getattr(model, "can_generate", None), getattr(base, "main_input_name", "input_ids")
    if can is None or not can() or main not in inputs.tensors:
        return answer
    arguments = {key: value for key, value in inputs.tensors.items() if key != "decoder_input_ids"}
    skip = 1  # what the decoder of an encoder-decoder starts with
    if main == "input_ids":
        arguments.setdefault("attention_mask", torch.ones_like(arguments["input_ids"]))
        if not getattr(base.config, "is_encoder_decoder", False):
            skip = arguments["input_ids"].shape[1]
    config = getattr(base, "generation_config", base.config)
    ends = (getattr(config, name, None) for name in ("pad_token_id", "eos_token_id"))
    pad = next((end for end in ends if end is not None), 0)
    pad = int(pad[0] if isinstance(pad, (list, tuple)) else pad)
    generate = cast("Callable[..., torch.Tensor]", model.generate)
    output = generate(**arguments, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=pad)
    tokens = tuple(int(token) for token in output[0, skip:].tolist())
    decode = None if inputs.tokenizer is None else inputs.tokenizer.decode
    text = str(decode(list(tokens), skip_special_tokens=True)) if decode is not None and tokens else ""
    return replace(answer, tokens=tokens, text=text)
