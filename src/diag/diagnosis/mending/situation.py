"""What fixes need to know of the model, its spec and its files, looked up when a cause asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from torch import nn

from diag.diagnosis.evidence.values import has_local_files
from diag.errors import DiagError, SpecError
from diag.loading.checkpoint.stored import checkpoint_name, plain_name, sources
from diag.models.adapters import carries_adapter, is_adapter_part
from diag.models.hooks import align_hooks
from diag.models.tensors import Entry, entries, tie_sources
from diag.values.finding import Finding
from diag.values.spec import LoadSpec


class Situation:
    """A model (or none) and the spec it can be loaded with again; reads attributes and headers of local files."""

    def __init__(self, model: object = None, spec: LoadSpec | None = None) -> None:
        self._model = model
        self.spec = spec or _spec_from(model)

    @property
    def has_model(self) -> bool:
        return self._model is not None

    @property
    def is_whole_model(self) -> bool:
        """A model, and not a pipeline's parts."""
        return hasattr(self._model, "named_parameters")

    @cached_property
    def adapter_is_unknown(self) -> bool:
        """The model carries an adapter whose files the spec does not name."""
        return carries_adapter(self._model) and (self.spec is None or self.spec.adapter is None)

    @cached_property
    def is_hooked(self) -> bool:
        if not isinstance(self._model, nn.Module):
            return self.has_model
        return any("_hf_hook" in vars(module) for module in self._model.modules())

    @cached_property
    def has_align_hooks(self) -> bool:
        return isinstance(self._model, nn.Module) and any(align_hooks(module) for module in self._model.modules())

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """Where tensors of the model are, `meta` included."""
        return tuple(sorted({str(e.tensor.device) for e in self._entries if e.kind != "quant_state"}))

    @cached_property
    def input_device(self) -> str:
        from diag.diagnosis.mending.repairs import input_device

        return str(input_device(self._model)) if isinstance(self._model, nn.Module) else ""

    @cached_property
    def offloaded_bytes(self) -> int | None:
        if not isinstance(self._model, nn.Module):
            return None
        return sum(p.nbytes for p in self._model.parameters() if p.is_meta)

    def nbytes_of(self, names: Iterable[str]) -> int:
        return sum(self._by_name[name].tensor.nbytes for name in names if name in self._by_name)

    def are_here(self, names: Iterable[str]) -> bool:
        """All these tensors exist and are not on meta."""
        return all(name in self._by_name and not self._by_name[name].tensor.is_meta for name in names)

    def are_unsaved_buffers(self, names: Iterable[str]) -> bool:
        return all(name in self._by_name and self._by_name[name].kind == "non_persistent_buffer" for name in names)

    def are_one_tensor(self, names: Iterable[str]) -> bool:
        """Whether the names share their tensor already, so that tying them again changes nothing."""
        return len({id(self._by_name[name].tensor) for name in names if name in self._by_name}) == 1

    def names_adapter_part(self, names: Iterable[str]) -> bool:
        return any(map(is_adapter_part, names))

    # --- the checkpoint's files ---

    @cached_property
    def checkpoint(self) -> str:
        return checkpoint_name(self._model, self.spec)

    def lacking(self, finding: Finding) -> list[str]:
        """The finding's saved tensors that are in none of the local files; empty where that can't be told."""
        if not self._stored:
            return []
        tied = tie_sources(self._model)
        saved = (n for n in finding.tensors if n in self._by_name and self._by_name[n].kind in ("parameter", "buffer"))
        return [n for n in saved if not {plain_name(n), plain_name(tied.get(n, n))} & self._stored]

    @property
    def unused_keys(self) -> list[str]:
        """What the files hold and the model has no place for."""
        return sorted(self._stored - {plain_name(entry.name) for entry in self._entries})

    @cached_property
    def _stored(self) -> set[str]:
        """The model's names for what its local files hold; headers are read, nothing is downloaded."""
        if not isinstance(self._model, nn.Module):
            return set()
        try:
            return set(sources(self._model, self.spec)) if has_local_files(self._model, self.spec) else set()
        except (DiagError, OSError, ValueError, RuntimeError, AttributeError):
            return set()

    @cached_property
    def _entries(self) -> tuple[Entry, ...]:
        return tuple(entries(self._model)) if isinstance(self._model, nn.Module) else ()

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self._entries}


def _spec_from(model: Any) -> LoadSpec | None:
    """A spec for a model that came from a local folder: the same files, the same dtype. None with an adapter, whose
    files a model does not name: without them it would be another model."""

    if carries_adapter(model):
        return None
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    if not name or not os.path.isdir(name):
        return None
    quantization = _quantization(model)
    placed = getattr(model, "hf_device_map", None)
    as_placed = dict(placed) if isinstance(placed, Mapping) and placed and quantization == "none" else None
    try:
        placed_as: Any = _plain(as_placed) or ("auto" if quantization != "none" else "none")
        return LoadSpec(name, device_map=placed_as, dtype=_dtype(model), quantization=quantization)
    except SpecError:  # a map with devices that a spec can't name
        return LoadSpec(name, device_map="auto", dtype=_dtype(model), quantization=quantization)


def _plain(device_map: dict[str, Any] | None) -> dict[str, str | int] | None:
    """Devices as a spec takes them: numbers, or text for torch.device objects."""
    if device_map is None:
        return None
    return {name: device if isinstance(device, (int, str)) else str(device) for name, device in device_map.items()}


def _quantization(model: Any) -> str:
    """The spec's name for what a bitsandbytes config asks for."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    values = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    if values.get("load_in_8bit") or values.get("_load_in_8bit"):
        return "int8"
    if values.get("load_in_4bit") or values.get("_load_in_4bit"):
        kind = str(values.get("bnb_4bit_quant_type", "nf4"))
        return f"{kind}-double" if kind == "nf4" and values.get("bnb_4bit_use_double_quant") else kind
    return "none"


def _dtype(model: Any) -> str:
    text = str(getattr(model, "dtype", "auto")).removeprefix("torch.")
    return text if text in ("float32", "float16", "bfloat16") else "auto"
