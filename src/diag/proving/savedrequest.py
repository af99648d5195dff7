"""A request that was kept in a file, to be asked again: `probe="request.json"` or `probe="request.safetensors"`.

JSON holds a prompt (`{"prompt": "…"}`, also `inputs` or `text`), a chat (`{"messages": […]}`), token ids (`[1, 2, 3]`)
or the arguments of the model's forward by name as nested lists. A safetensors file holds those arguments as tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from diag.errors import CouldNotJudgeError
from diag.values.text import error_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tensors = dict[str, torch.Tensor]
SUFFIXES = (".json", ".safetensors")
_TEXT_KEYS = ("prompt", "inputs", "text")
_NOT_ASKED = ("labels", "parameters", "stream", "model", "max_tokens", "temperature")


def is_saved_request(probe: str | None) -> bool:
    """Whether this probe is the path of a file: one word that ends in `.json` or `.safetensors`."""
    return probe is not None and probe.lower().endswith(SUFFIXES) and "\n" not in probe


def read_request(path: str, tokenizer: PreTrainedTokenizerBase | None, dtype: torch.dtype | None) -> Tensors:
    """The arguments of the model's forward. Numbers with a fraction get `dtype`, the model's own.

    Raises CouldNotJudgeError for a file that is not there, not readable, or needs a tokenizer that is not there.
    """
    file = _there(path)
    if file.suffix.lower() == ".safetensors":
        return {name: _as(tensor, dtype) for name, tensor in _tensors_of(file).items()}
    return _from_json(file, tokenizer, dtype)


def check_request(path: str) -> None:
    """What shows without a model: raises CouldNotJudgeError for a file that is not there, cut off, or of no use."""
    file = _there(path)
    if file.suffix.lower() == ".safetensors":
        _tensors_of(file)
        return
    value = _value_of(file)
    if not isinstance(value, (str, list, Mapping)):
        raise _unreadable(file, ValueError(f"it holds a {type(value).__name__}"))
    if isinstance(value, list) or (isinstance(value, Mapping) and _text_in(value) is None and "messages" not in value):
        _from_json(file, None, None)


def _there(path: str) -> Path:
    file = Path(path)
    if not file.is_file():
        raise CouldNotJudgeError(
            f"the saved request {path!r} is not there.",
            why=f"looked in {str(Path.cwd())!r}; a probe that ends in {' or '.join(SUFFIXES)} is the path of a file.",
            next_step="give the path of the file, or a prompt that does not end that way.",
        )
    return file


def _tensors_of(file: Path) -> Tensors:
    try:
        return load_file(file)
    except Exception as e:  # SafetensorError, OSError: each means that the file can't be used
        raise _unreadable(file, e) from e


def _value_of(file: Path) -> object:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(value, Mapping) and isinstance(value.get("body"), (str, Mapping)):  # a logged HTTP request
            value = json.loads(value["body"]) if isinstance(value["body"], str) else value["body"]
    except (OSError, ValueError) as e:
        raise _unreadable(file, e) from e
    return value


def _from_json(file: Path, tokenizer: PreTrainedTokenizerBase | None, dtype: torch.dtype | None) -> Tensors:
    value = _value_of(file)
    text = value if isinstance(value, str) else _text_in(value)
    if text is not None:
        return dict(_needed(tokenizer, file)(text, return_tensors="pt"))
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        template = _needed(tokenizer, file).apply_chat_template
        how = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        try:
            return dict(template(value["messages"], **how))  # type: ignore[arg-type]
        except Exception as e:  # no template, or one that refuses these messages: jinja has its own classes
            raise _unreadable(file, e) from e
    if isinstance(value, list):
        value = {"input_ids": value}
    if not isinstance(value, Mapping):
        raise _unreadable(file, ValueError(f"it holds a {type(value).__name__}"))
    try:
        tensors = {name: torch.tensor(value[name]) for name in value if name not in _NOT_ASKED}
    except (TypeError, ValueError) as e:
        raise _unreadable(file, e) from e
    # One request is a batch of one: ids and masks without a batch dimension get it.
    flat = {name for name, tensor in tensors.items() if tensor.dim() == 1 and name.endswith(("ids", "mask"))}
    return {name: _as(tensor[None] if name in flat else tensor, dtype) for name, tensor in tensors.items()}


def _text_in(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return None
    return next((value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)), None)


def _needed(tokenizer: PreTrainedTokenizerBase | None, file: Path) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        what = f"the saved request {str(file)!r} is text, and the model has no tokenizer beside it."
        raise CouldNotJudgeError(what, next_step='save the token ids instead: {"input_ids": [[…]]}.')
    return tokenizer


def _as(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _unreadable(file: Path, error: Exception) -> CouldNotJudgeError:
    what = f"the saved request {str(file)!r} can't be used."
    next_step = 'save it as {"prompt": "…"}, {"messages": […]}, {"input_ids": [[…]]}, or tensors as safetensors.'
    return CouldNotJudgeError(what, why=error_line(error), next_step=next_step)
