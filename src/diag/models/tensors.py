"""placement(): one row per tensor name, where its data is and who will move it. Reads a model, leaves it as found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from diag.errors import NotAModelError
from diag.models.hooks import RESIDENT, Backing, HookIndex, device_namer
from diag.models.maps import device_for

PLACEMENT_COLUMNS = (
    "name", "kind", "module", "module_class", "shape", "dtype", "numel", "nbytes", "device", "mapped_device",
    "execution_device", "backing", "quantization", "tied_group",
)  # fmt: skip

_KIND_ORDER = {"parameter": 0, "buffer": 1, "non_persistent_buffer": 2, "quant_state": 3}


@dataclass(frozen=True)
class Entry:
    """One named tensor and its owner, as found on the model."""

    name: str
    kind: str
    local_name: str
    module_path: str
    owner: nn.Module
    tensor: torch.Tensor


def placement(model: Any) -> pd.DataFrame:
    """One row per tensor name, tied names included: where its data is and who will move it.

    Reads attributes only: no forward pass, no `.to()`, nothing is loaded from a `weights_map`, `state_dict` is not
    called. `nbytes` is `tensor.nbytes` in bytes (a meta tensor reports its size, not memory held); `numel` is
    logical, so packed 4-bit weights count their real elements. Devices are text; NA in `mapped_device` means there is
    no map, in `execution_device` that no hook sets one. Rows with the same `tied_group` are one tensor: count it once.
    A pipeline (an object with `components`) or a dict of modules gets its components' names as prefixes.
    Returns `PLACEMENT_COLUMNS`, parameters first. Raises NotAModelError for anything else.
    Source: accelerate 1.15.0 `hooks.py`; bitsandbytes 0.50.2 `nn/modules.py` for quantization state.

    >>> placement(nn.Linear(3, 4))[["name", "shape", "device", "backing"]].values.tolist()
    [['weight', (4, 3), 'cpu', 'resident'], ['bias', (4,), 'cpu', 'resident']]
    """
    parts = parts_of(model)
    rows: list[tuple[Any, ...]] = []
    for prefix, part in parts:
        rows += _rows(part, prefix, first_group=len(rows))
    rows.sort(key=lambda row: _KIND_ORDER[row[1]])
    return _frame(rows)


def entries(model: nn.Module) -> Iterator[Entry]:
    """Every parameter, buffer and quantization-state tensor under every name it has."""
    for path, module in model.named_modules(remove_duplicate=False):
        dot = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            yield Entry(dot + name, "parameter", name, path, module, parameter)
            for key, state in _quant_state(module, name, parameter):
                yield Entry(dot + key, "quant_state", key, path, module, state)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                kind = "non_persistent_buffer" if name in module._non_persistent_buffers_set else "buffer"
                yield Entry(dot + name, kind, name, path, module, buffer)


def tie_sources(model: nn.Module) -> dict[str, str]:
    """Which name each tied name follows, as transformers declares it; empty where nothing is declared."""
    declared = getattr(model, "all_tied_weights_keys", None)
    return dict(declared) if isinstance(declared, Mapping) else _tie_sources_of_version_4(model)


def _tie_sources_of_version_4(model: Any) -> dict[str, str]:
    """transformers 4 lists the tied names only; all of them follow the input embedding."""
    listed = getattr(model, "_tied_weights_keys", None)
    if not isinstance(listed, (list, tuple)) or not hasattr(model, "get_input_embeddings"):
        return {}
    names = {id(module): f"{path}.weight" for path, module in model.named_modules()}
    source, output = names.get(id(model.get_input_embeddings())), names.get(id(model.get_output_embeddings()))
    tied_output = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    there = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    followers = [name for name in listed if name in there and name != source and (tied_output or name != output)]
    return dict.fromkeys(followers, source) if source else {}


def accelerator_type(model: nn.Module | None = None) -> str | None:
    """The device type that integers in a device map mean: what the model sits on, else the current accelerator."""
    if model is not None:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type not in ("cpu", "meta"):
                return tensor.device.type
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6 and later
    if accelerator is not None and accelerator.is_available():
        return accelerator.current_accelerator().type
    return "cuda" if torch.cuda.is_available() else None


def parts_of(model: Any) -> list[tuple[str, nn.Module]]:
    """The modules of a model or a pipeline, each with the prefix that its names get in the table."""
    if isinstance(model, nn.Module):
        return [("", model)]
    bundle = model if isinstance(model, Mapping) else getattr(model, "components", None)
    if isinstance(bundle, Mapping):
        parts = [(f"{key}.", part) for key, part in bundle.items() if isinstance(part, nn.Module)]
        if parts:
            return parts
    raise NotAModelError(
        f"a {type(model).__name__} has no parameters to tabulate.",
        why="placement reads torch modules, pipelines whose `components` are modules, or dicts of modules.",
        next_step="pass the model itself, for example outcome.model.",
    )


def _rows(model: nn.Module, prefix: str, first_group: int) -> list[tuple[Any, ...]]:
    index = HookIndex(model)
    name_device = device_namer(accelerator_type(model))
    mapped = _mapped_devices(model, name_device)
    tied = _TiedGroups(model, first_group)
    where = _Cached(lambda path: _where(path, mapped, index, name_device))
    dtype_text = _Cached(lambda dtype: str(dtype).removeprefix("torch."))
    device_text = _Cached(str)
    rows = []
    for e in entries(model):
        t = e.tensor
        mapped_device, execution_device = where[e.module_path]
        mapped_device = mapped.get(e.name, mapped_device)  # a map may name a tensor itself
        backing = index.backing(e.module_path, e.local_name, e.kind) if t.is_meta else RESIDENT
        rows.append((
            prefix + e.name, e.kind, prefix + e.module_path if e.module_path else prefix.rstrip("."),
            type(e.owner).__name__, tuple(t.shape), dtype_text[t.dtype], logical_numel(t), t.nbytes,
            device_text[t.device], mapped_device, execution_device, backing.kind, quantization_of(e), tied.number(e),
        ))  # fmt: skip
    return rows


def backing_of(model: nn.Module) -> dict[str, Backing]:
    """The verdict on every meta tensor, with its reason; resident tensors are left out."""
    index = HookIndex(model)
    return {e.name: index.backing(e.module_path, e.local_name, e.kind) for e in entries(model) if e.tensor.is_meta}


def unserved(model: nn.Module) -> list[str]:
    """Tensors that are here, and that a hook will ask its store for in vain: the forward raises KeyError."""
    index = HookIndex(model)
    return [e.name for e in entries(model) if not e.tensor.is_meta and index.lacks(e.module_path, e.local_name, e.kind)]


def logical_numel(tensor: torch.Tensor) -> int:
    """Elements of the weight it stands for: a packed 4-bit weight has two in each byte."""
    state = getattr(tensor, "quant_state", None)
    shape = getattr(state, "shape", None)
    return int(torch.Size(shape).numel()) if shape is not None else tensor.numel()


def quantization_of(entry: Entry) -> str:
    """`int8`, `nf4`, `fp4`, with `-double` for a doubly quantized state, or `none`."""
    tensor = entry.tensor
    if entry.kind == "quant_state":
        tensor = entry.owner._parameters.get("weight", tensor)  # type: ignore[assignment]
    kind = type(tensor).__name__
    if kind == "Int8Params":
        return "int8" if tensor.dtype == torch.int8 else "none"
    state = getattr(tensor, "quant_state", None) if kind == "Params4bit" else None
    if state is None:
        return "none"
    return f"{state.quant_type}-double" if getattr(state, "nested", False) else str(state.quant_type)


def _quant_state(module: nn.Module, name: str, parameter: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Quantization state lives outside parameters and buffers; named as bitsandbytes' state_dict names it."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        inner = getattr(state, "state2", None)
        found = [("absmax", state.absmax), ("quant_map", state.code)]
        if inner is not None:
            found += [("nested_absmax", inner.absmax), ("nested_quant_map", inner.code)]
        yield from ((f"{name}.{key}", t) for key, t in found if isinstance(t, torch.Tensor))
    if type(parameter).__name__ == "Int8Params":
        scales = getattr(parameter, "SCB", None)
        if scales is None:
            scales = getattr(getattr(module, "state", None), "SCB", None)
        if isinstance(scales, torch.Tensor):
            yield "SCB", scales


def _mapped_devices(model: nn.Module, name_device: Any) -> dict[str, str]:
    device_map = getattr(model, "hf_device_map", None)
    if not isinstance(device_map, Mapping):
        return {}
    return {str(module): name_device(device) for module, device in device_map.items()}


def _where(path: str, mapped: dict[str, str], index: HookIndex, name_device: Any) -> tuple[Any, Any]:
    execution = index.execution_device(path)
    return device_for(path, mapped, pd.NA), pd.NA if execution is None else name_device(execution)


class _Cached(dict):
    def __init__(self, compute: Any) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, key: Any) -> Any:
        value = self[key] = self._compute(key)
        return value


class _TiedGroups:
    """Numbers tensors; the same object, or names that transformers declares tied, get the same number.

    `data_ptr` is no help: it is 0 for every meta tensor. Quantization state follows no tie.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        self._sources = tie_sources(model)
        self._numbers: dict[Any, int] = {}
        self._keys_by_name: dict[str, Any] = {}
        self._first = first
        declared = set(self._sources) | set(self._sources.values())
        tensors = {e.name: e.tensor for e in entries(model) if e.name in declared} if declared else {}
        self._root_ids = {name: id(tensors[self._root(name)]) for name in declared if self._root(name) in tensors}

    def _root(self, name: str) -> str:
        seen = set()
        while name in self._sources and name not in seen:
            seen.add(name)
            name = self._sources[name]
        return name

    def number(self, entry: Entry) -> int:
        key = self._root_ids.get(entry.name, id(entry.tensor))
        return self._numbers.setdefault(key, self._first + len(self._numbers))


def _frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    columns = list(zip(*rows)) if rows else [()] * len(PLACEMENT_COLUMNS)
    frame = pd.DataFrame(
        {name: pd.Series(list(values), dtype=_dtype_of(name)) for name, values in zip(PLACEMENT_COLUMNS, columns)}
    )
    return frame


def _dtype_of(column: str) -> str:
    if column in ("numel", "nbytes", "tied_group"):
        return "int64"
    return "object" if column == "shape" else "string"
