"""Are the values the right ones? Non-finite numbers, buffers that were never computed, and samples of the files.

Only samples of each tensor are read (some kilobytes), so this stays fast on large models; `diag.verify_weights`
compares everything. A model that was trained after loading is not taken for a wrong one: training moves values a
little, while a lost weight has nothing to do with the file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from diag.adapters import adapter_configs
from diag.errors import DiagError
from diag.stored import Source, plain_name, sources
from diag.tensors import Entry, entries, tie_sources
from diag.weights import is_packed

_ROWS, _COLUMNS = 16, 512  # of each tensor, evenly spaced rows
_BIG = 2**22  # elements: a tensor that large is a parameter; its values are not needed to build buffers
_UNRELATED = 0.5
_CONVERTED_LIMIT = 64 * 2**20


def value_facts(model: nn.Module, spec: Any = None) -> dict[str, Any]:
    """The value-related fields of ModelFacts."""
    found = _FoundValues(model, spec)
    return {
        "not_finite": tuple(found.not_finite()),
        "wrong_values": tuple(found.wrong_values()),
        "not_stored": tuple(found.not_stored()),
        "wrong_buffers": tuple(wrong_buffers(model)),
        "dead_adapter": tuple(dead_adapter(model)),
        "rewritten": tuple(rewritten(model, spec)),
        "examined": found.examined,
    }


class _FoundValues:
    def __init__(self, model: nn.Module, spec: Any) -> None:
        self._entries = [e for e in entries(model) if not e.tensor.is_meta]
        self._tied = tie_sources(model)
        self.examined: tuple[str, ...] = ("samples of every tensor's values",)
        try:
            self._files = sources(model, spec) if has_local_files(model, spec) else {}
        except (DiagError, OSError, ValueError, RuntimeError):
            self._files = {}
        self._by_object = {id(e.tensor): s for e in self._entries if (s := self._source(e)) is not None}
        self._compared = [
            (e, self._by_object.get(id(e.tensor))) for e in self._entries if e.kind in ("parameter", "buffer")
        ]
        if self._files:
            self.examined += ("samples of the checkpoint's files",)

    def _source(self, entry: Entry) -> Source | None:
        name = plain_name(entry.name)
        return self._files.get(name) or self._files.get(plain_name(self._tied.get(entry.name, "")))

    def not_finite(self) -> Iterator[str]:
        for entry in self._entries:
            if entry.tensor.is_floating_point() and entry.kind != "buffer":
                sample = _sample(entry.tensor)
                finite = torch.isfinite(sample)
                masked = entry.kind == "non_persistent_buffer" and bool(torch.isneginf(sample[~finite]).all())
                if not bool(finite.all()) and not masked:
                    yield entry.name

    def wrong_values(self) -> Iterator[str]:
        for entry, source in self._compared:
            if source is None or is_packed(entry.tensor) or not entry.tensor.is_floating_point():
                continue
            if source.converter is not None and entry.tensor.nbytes > _CONVERTED_LIMIT:
                continue
            stored = _stored_sample(source, entry.tensor)
            if stored is not None and unrelated(_sample(entry.tensor), stored):
                yield entry.name

    def not_stored(self) -> Iterator[str]:
        """Parameters in no file, where the files name nearly all others and nothing is left over beside them."""
        missing = [e.name for e, s in self._compared if s is None and e.kind == "parameter" and not _is_adapter(e.name)]
        known = sum(1 for e, s in self._compared if s is not None and e.kind == "parameter")
        if self._files and missing and known > 2 * len(missing):
            yield from missing


def has_local_files(model: nn.Module, spec: Any) -> bool:
    """Whether the files are on this machine already; nothing is downloaded for a diagnosis."""
    import os

    from diag import samples
    from diag.stored import checkpoint_name

    name = checkpoint_name(model, spec)
    return bool(name) and (name in samples.names() or os.path.isdir(name))


def rewritten(model: nn.Module, spec: Any = None) -> list[str]:
    """Tensors that the base's local files hold only under the names of a PeftModel; reads headers of files."""
    from diag.stored import checkpoint_name, keys_of

    folder = Path(checkpoint_name(model, spec) or "?")
    if not folder.is_dir():
        return []
    try:
        keys = {key for file in folder.glob("model*.safetensors") for key, _ in keys_of(file)}
    except Exception:  # a damaged file: others say so
        return []
    names = {plain_name(entry.name) for entry in entries(model)}
    return sorted(n for n in names if n not in keys and f"base_model.model.{n}" in keys)


def _is_adapter(name: str) -> bool:
    return "lora_" in name or ".modules_to_save." in name or "adapter" in name or "prompt_encoder" in name


def unrelated(here: torch.Tensor, there: torch.Tensor) -> bool:
    """Whether two samples have nothing to do with each other, which no training explains.

    Both a large distance and no common direction are asked for; constant tensors are judged by distance alone.
    """
    a, b = here.float().flatten(), there.float().flatten()
    if a.shape != b.shape or a.numel() == 0 or torch.equal(a, b):
        return False
    if not bool(torch.isfinite(a).all()):
        return True
    scale = max(float(b.norm()), 1e-12)
    distance = float((a - b).norm()) / scale
    if a.numel() < 8 or float(b.std()) < 1e-3 * (abs(float(b.mean())) + 1e-12):
        return distance > _UNRELATED
    similarity = float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))
    return distance > _UNRELATED and (math.isnan(similarity) or similarity < _UNRELATED)


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        tensor = tensor.detach()
        if tensor.dim() == 0:
            return tensor.reshape(1).cpu()
        step = max(1, tensor.shape[0] // _ROWS)
        part = tensor[::step][:_ROWS]
        return part.reshape(part.shape[0], -1)[:, :_COLUMNS].cpu()


def _stored_sample(source: Source, like: torch.Tensor) -> torch.Tensor | None:
    try:
        if source.converter is not None or not source.shape:
            stored = source.read()
            return _sample(stored.to(like.dtype)) if stored.shape == like.shape else None
        if source.shape != tuple(like.shape):
            return None
        step = max(1, source.shape[0] // _ROWS)
        rows = [source.read(i, i + 1) for i in range(0, source.shape[0], step)][:_ROWS]
        part = torch.cat(rows)
        return part.reshape(part.shape[0], -1)[:, :_COLUMNS].to(like.dtype)
    except (OSError, KeyError, RuntimeError, ValueError):
        return None


# --- buffers that are not saved -------------------------------------------------------------------------------


def wrong_buffers(model: nn.Module) -> list[str]:
    """Non-persistent buffers that differ from those of a model built anew from the same config."""
    ours = {e.name: e.tensor for e in entries(model) if e.kind == "non_persistent_buffer" and not e.tensor.is_meta}
    base = _transformers_model(model)
    if base is None or not ours:
        return []
    fresh = fresh_buffers(base)
    wrong = []
    for name, tensor in ours.items():
        expected = fresh.get(plain_name(name))
        if expected is None or expected.is_meta or expected.shape != tensor.shape or _changes_by_itself(base, name):
            continue
        if not _alike(tensor, expected):
            wrong.append(name)
    return wrong


def fresh_buffers(model: Any) -> dict[str, torch.Tensor]:
    """The non-persistent buffers of a new model of this class; large parameters are not allocated for it."""
    try:
        config = copy.deepcopy(model.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.random.fork_rng(devices=[]), torch.no_grad(), _SmallOnly(), torch.device("cpu"):
            new = type(model)(config)
    except Exception:  # a constructor that wants more than a config: this check is left out
        return {}
    return {e.name: e.tensor for e in entries(new) if e.kind == "non_persistent_buffer"}


def _transformers_model(model: Any) -> Any:
    base = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    module = type(base).__module__
    has_config = hasattr(base, "config") and hasattr(base, "_init_weights")
    return base if has_config and (module.startswith("transformers.") or hasattr(base, "save_pretrained")) else None


def _changes_by_itself(model: nn.Module, name: str) -> bool:
    """Rotary embeddings of the dynamic kinds recompute their frequencies while they run."""
    owner = model.get_submodule(plain_name(name).rpartition(".")[0])
    kinds = getattr(owner, "rope_type", None)
    values = kinds.values() if isinstance(kinds, Mapping) else [kinds]
    return any(kind in ("dynamic", "longrope") for kind in values)


def _alike(here: torch.Tensor, fresh: torch.Tensor) -> bool:
    a, b = here.detach().float().cpu(), fresh.to(here.dtype).float()
    close = 1e-5 if here.dtype in (torch.float32, torch.float64) else 1e-2
    return bool(torch.allclose(a, b, rtol=close, atol=1e-8, equal_nan=True))


class _SmallOnly(TorchFunctionMode):
    """While a model is built only for its buffers, large tensors are made on meta. Works in this thread alone."""

    _MAKERS = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._MAKERS and _numel(args, kwargs) > _BIG:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _numel(args: tuple, kwargs: Mapping[str, Any]) -> int:
    sizes = kwargs.get("size", args)
    flat = [n for one in sizes for n in (one if isinstance(one, (tuple, list, torch.Size)) else [one])]
    return math.prod(n for n in flat if isinstance(n, int) and not isinstance(n, bool)) if flat else 0


def dead_adapter(model: nn.Module) -> list[str]:
    """LoRA matrices of an active adapter that was loaded for inference, all zero: that adapter changes nothing."""
    dead = []
    for adapter, config in adapter_configs(model).items():
        parts = (f"lora_B.{adapter}", f"lora_embedding_B.{adapter}")
        outer = [(n, p) for n, p in model.named_parameters() if any(f"{part}." in f"{n}." for part in parts)]
        used = any(p.is_meta or bool(p.detach().count_nonzero()) for _, p in outer)
        if outer and not used and getattr(config, "inference_mode", False):
            dead += [name for name, _ in outer]
    return dead
