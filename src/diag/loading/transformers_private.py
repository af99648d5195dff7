"""The one private door into transformers: its load, run up to the point where weights would be read; its key mapping.

`from_pretrained` builds the model on meta, prepares it for quantization and then asks `_get_device_map` which module
goes where. Stopping there gives the same map, the same refusals and the same module classes as the real load, for any
version that has this function, without repeating any of its logic. Read and tested at transformers 5.23.0.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from unittest import mock

import torch
from torch import nn

from diag.errors import DiagError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PLACE = "transformers.modeling_utils._get_device_map"
_LOCK = threading.RLock()


class ModelClass(Protocol):
    """A model class of transformers, as far as a load needs it: gives the model, or the model and what it reports."""

    def from_pretrained(self, folder: str, **arguments: object) -> Any: ...


class Operation(Protocol):
    """One step of a converter; those that stack or split have a `dim`."""

    dim: int


class Converter(Protocol):
    """transformers' `WeightConverter`: makes one tensor of the model, or several, from several of the files."""

    operations: list[Operation]
    target_patterns: list[str]

    def add_tensor(self, name: str, key: str, pattern: str, read: Callable[[], torch.Tensor]) -> None: ...

    def convert(self, name: str) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Skeleton:
    """The model as it stands before weights are read (all meta, quantized classes in place) and its device map."""

    model: nn.Module
    device_map: Mapping[str, object]


class _Stop(BaseException):
    """Carries a skeleton. Not an Exception: no library may swallow it."""


def skeleton(model_class: ModelClass, folder: str, **arguments: object) -> Skeleton:
    """What `model_class.from_pretrained(folder, **arguments)` would load, without reading a weight.

    `arguments` must hold a `device_map`. Errors that transformers raises before reading weights come through
    unchanged. Raises DiagError where this transformers has no such stopping point.
    """
    import transformers.modeling_utils as place

    with _LOCK:
        original, caller = getattr(place, "_get_device_map", None), threading.get_ident()
        if original is None:
            raise _moved("is not there")

        def stop_here(model: nn.Module, *given: object, **named: object) -> Mapping[str, object]:
            result = original(model, *given, **named)
            if threading.get_ident() != caller:  # somebody else's load in another thread goes on
                return result
            raise _Stop(Skeleton(model, dict(result)))

        with mock.patch(_PLACE, stop_here):
            try:
                model_class.from_pretrained(folder, **arguments)
            except _Stop as stop:
                return stop.args[0]
    raise _moved("was not called")


def _moved(fact: str) -> DiagError:
    what = "this transformers can't be asked for its device map before the load."
    next_step = "install the transformers named in requirements.lock, or load with device_map='none'."
    return DiagError(what, why=f"{_PLACE} {fact}; it is private and has moved or changed.", next_step=next_step)


@dataclass(frozen=True)
class Renamed:
    """A key of the files as the model calls it, and the converter, with its pattern, that makes the tensor from it."""

    name: str
    pattern: str = ""
    converter: Converter | None = None


def key_renamer(model: PreTrainedModel, names: dict[str, bool]) -> Callable[[str], Renamed]:
    """Gives a file's key the name that transformers loads it under in this model, whose tensors are called `names`.

    transformers 5 renames keys and converts tensors by a mapping of its own. Version 4 has none, nor has a model of
    another library: there the key is the name, but for the base model's prefix and patterns that the class has.
    """
    prefix = str(getattr(model, "base_model_prefix", "") or "")

    def as_it_is(key: str) -> Renamed:
        candidates = (key, key.removeprefix(f"{prefix}."), f"{prefix}.{key}") if prefix else (key,)
        return Renamed(next((name for name in candidates if name in names), key))

    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        mapping = get_model_conversion_mapping(model)
    except Exception:  # each kind of model, and each older version, fails in its own way
        patterns: Mapping[str, str] = getattr(model, "_checkpoint_conversion_mapping", None) or {}
        return lambda key: as_it_is(
            next((re.sub(old, new, key) for old, new in patterns.items() if re.search(old, key)), key)
        )
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    by_pattern: dict[str, Any] = {pattern: one for one in converters for pattern in one.source_patterns}

    def renamed(key: str) -> Renamed:
        name, pattern = rename_source_key(key, renamings, converters, prefix or None, names)[:2]
        return Renamed(name, pattern, by_pattern.get(pattern)) if pattern else as_it_is(name)

    return renamed


@contextlib.contextmanager
def no_gguf_bar() -> Iterator[None]:
    """The GGUF reader's bar does not obey transformers' switch; in an executed notebook it would be a dead widget."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):  # moved: then there is a bar
            stack.enter_context(mock.patch("transformers.modeling_gguf_pytorch_utils.tqdm", lambda items, **_: items))
        yield
