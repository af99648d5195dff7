"""Are the values the right ones? Non-finite numbers, values that no load has put there, and samples of the files.

Only samples of each tensor are read (some kilobytes), so this stays fast on large models; `diag.verify_weights`
compares everything. What the user did to the values is not wrong: training, moved or copied layers, merged adapters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diag.errors import DiagError
from diag.loading.checkpoint.stored import Source, plain_name, source_of, sources
from diag.models.adapters import adapter_configs
from diag.models.added import added_tensors
from diag.models.tensors import Entry, entries, tie_sources
from diag.proving import sampling
from diag.proving.buffers import wrong_buffers
from diag.proving.weights import is_packed

_CONVERTED_LIMIT = 64 * 2**20
_STEPS = 6  # changes in place: more than any initialisation makes, so an optimizer was at work
_HUGE, _TINY = 1e10, 1e-30  # numbers that memory left by others holds, and weights do not


def value_facts(model: nn.Module, spec: Any = None) -> dict[str, Any]:
    """The value-related fields of ModelFacts."""
    found = _FoundValues(model, spec)
    wrong, never = found.unrelated()
    missing, renamed = found.not_stored()
    unfilled, diverged = found.not_finite()
    return {
        "not_finite": unfilled,
        "diverged": diverged,
        "wrong_values": wrong if not unfilled else (*wrong, *never),
        "never_loaded": never if not unfilled else (),
        "lost_rows": found.names("lost rows"),
        "not_stored": missing,
        "renamed": renamed,
        "wrong_buffers": tuple(wrong_buffers(model)),
        "dead_adapter": tuple(dead_adapter(model)),
        "rewritten": tuple(rewritten(model, spec)),
        "examined": found.examined,
    }


class _FoundValues:
    """Every tensor that is here, compared with its file where the files are on this machine."""

    def __init__(self, model: nn.Module, spec: Any) -> None:
        self._entries = [e for e in entries(model) if not e.tensor.is_meta]
        self._tied = tie_sources(model)
        self.examined: tuple[str, ...] = ("samples of every tensor's values",)
        try:
            self._files = sources(model, spec) if has_local_files(model, spec) else {}
        except (DiagError, OSError, ValueError, RuntimeError):
            self._files = {}
        self._alike: dict[Any, list[torch.Tensor]] = {}
        added = added_tensors(model)
        own = [e for e in self._entries if e.name not in added and e.kind in ("parameter", "buffer")]
        by_object = {id(e.tensor): s for e in own if (s := self._source(e)) is not None}
        self._own = [(e, by_object.get(id(e.tensor))) for e in own]
        self._recorded = any(_is_marked(e.tensor) for e in own)
        self._verdicts = {e.name: (e, verdict) for e, s in self._own if s and (verdict := self._compare(e, s))}
        if self._files:
            self.examined += ("samples of the checkpoint's files (diag.verify_weights compares every value)",)

    def _source(self, entry: Entry) -> Source | None:
        return source_of(entry.name, self._files, self._tied)

    def names(self, verdict: str) -> tuple[str, ...]:
        return tuple(name for name, (_, found) in self._verdicts.items() if found == verdict)

    def _compare(self, entry: Entry, source: Source) -> str:
        """`same`, `moved`, `lost rows`, `unrelated`, or nothing where it can't be told."""
        tensor = entry.tensor
        if is_packed(tensor) or not tensor.is_floating_point() or not _is_cheap(source, tensor):
            return ""
        there = sampling.stored_sample(source, tensor)
        if there is None:
            return ""
        here = sampling.sample(tensor)
        if sampling.unrelated(here, there):
            return "" if self._was_meant(entry, source, here) else "unrelated"
        if sampling.has_lost_rows(here, there, tensor.shape):
            return "lost rows"
        if sampling.is_constant(there, spread=0.5):
            return ""  # norms are near 1 in every model: that they agree says nothing
        return "same" if sampling.is_same(here, there) else "moved"

    def _was_meant(self, entry: Entry, source: Source, here: torch.Tensor) -> bool:
        """Trained in this process, another layer's values, or an adapter that was merged into it."""
        if _was_updated(entry.tensor) or self._is_elsewhere(entry, here):
            return True
        if entry.tensor.dim() != 2 or source.shape is None:
            return False
        there = sampling.stored_sample(source, entry.tensor, rows=64)
        return there is not None and sampling.is_low_rank_update(sampling.sample(entry.tensor, rows=64), there)

    def _is_elsewhere(self, entry: Entry, here: torch.Tensor) -> bool:
        """Whether the files hold these values under another name: a layer was moved, copied or renamed."""
        if sampling.is_constant(here):
            return False
        shape, dtype, local = tuple(entry.tensor.shape), entry.tensor.dtype, entry.local_name
        if (shape, dtype, local) not in self._alike:
            built = [s for s in self._files.values() if s.shape is None and s.name.endswith(local)]
            alike = [s for s in self._files.values() if s.shape == shape]
            alike += built if entry.tensor.nbytes <= _CONVERTED_LIMIT else []
            found = (sampling.stored_sample(s, entry.tensor) for s in alike)
            self._alike[shape, dtype, local] = [one for one in found if one is not None]
        return any(not sampling.unrelated(here, one) for one in self._alike[shape, dtype, local])

    def unrelated(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(values that were lost, values of a model that nothing was ever loaded into)."""
        names, same, moved = self.names("unrelated"), len(self.names("same")), len(self.names("moved"))
        if moved > same + len(names):  # a trained model, of which some tensors went far
            return (), ()
        return (names, ()) if 10 * (same + moved) > len(names) else ((), names)

    def not_stored(self) -> tuple[tuple[str, ...], bool]:
        """Parameters that no file fills, and whether the files hold such tensors under other names.

        Where the loader left its marks they say what was filled; else only what the files' names make plain counts.
        """
        trained = len(self.names("moved")) > len(self.names("same"))
        missing = [e for e, s in self._own if s is None and e.kind == "parameter" and _is_marked(e.owner)
                   and not _is_marked(e.tensor) and not _was_updated(e.tensor)]  # fmt: skip
        if not self._files or trained:
            return (), False
        missing = [e for e in missing if not self._is_elsewhere(e, sampling.sample(e.tensor))]
        known = sum(1 for e, s in self._own if s is not None and e.kind == "parameter")
        renamed = 2 * sum(self._has_namesake(e) for e in missing) > len(missing)
        says_something = any(not sampling.is_constant(sampling.sample(e.tensor)) for e in missing)
        if not (self._recorded or known > 2 * len(missing) or (renamed and says_something)):
            return (), False
        return tuple(e.name for e in missing), renamed

    def _has_namesake(self, entry: Entry) -> bool:
        """A tensor in the files that the model has no place for, with the same last names and shape."""
        placed, ending = {plain_name(e.name) for e in self._entries}, ".".join(entry.name.split(".")[-2:])
        return any(name not in placed and name.endswith(f".{ending}") and source.shape == tuple(entry.tensor.shape)
                   for name, source in self._files.items())  # fmt: skip

    def not_finite(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(tensors that hold what nobody put there, tensors that training has driven to NaN or infinity)."""
        odd = [e for e in self._entries if e.tensor.is_floating_point() and e.kind != "buffer" and _is_odd(e)]
        diverged = [e for e in odd if _was_updated(e.tensor)]
        unfilled = [e for e in odd if not _was_updated(e.tensor)]
        if len(unfilled) > 1 and all(_is_untouched(e.tensor) for e in unfilled):  # then others may look harmless
            known = {id(e.tensor) for e in unfilled} | {id(self._verdicts[n][0].tensor) for n in
                                                        (*self.names("same"), *self.names("moved"))}  # fmt: skip
            unfilled += [e for e in self._entries if e.kind == "parameter" and id(e.tensor) not in known
                         and _is_untouched(e.tensor) and _looks_left_over(e.tensor)]  # fmt: skip
        return tuple(e.name for e in unfilled), tuple(e.name for e in diverged)


def _is_marked(of: Any) -> bool:
    """The mark that transformers leaves on what it loaded: modules (always) and parameters (from version 5)."""
    return bool(getattr(of, "_is_hf_initialized", False))


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _was_updated(tensor: torch.Tensor) -> bool:
    """Whether an optimizer was at work on it."""
    return _version(tensor) >= _STEPS or (_version(tensor) > 0 and tensor.is_leaf and tensor.grad is not None)


def _is_untouched(tensor: torch.Tensor) -> bool:
    """Neither loaded by transformers nor written to since it was allocated."""
    return not _is_marked(tensor) and _version(tensor) == 0


def _is_odd(entry: Entry) -> bool:
    """NaN, infinities or huge numbers; a tensor of infinities alone, or a mask of them, is the user's own start."""
    part = sampling.sample(entry.tensor).float()
    strange = part[~torch.isfinite(part)]
    if not strange.numel():
        return entry.kind == "parameter" and part.numel() > 0 and float(part.abs().max()) > _HUGE
    if bool(torch.isinf(part).all()) and float(part.min()) == float(part.max()):
        return False
    unsaved = entry.kind == "non_persistent_buffer"
    return not (unsaved and (entry.tensor.numel() == 1 or bool(torch.isneginf(strange).all())))


def _looks_left_over(tensor: torch.Tensor) -> bool:
    """Zeros or numbers near nothing, as fresh memory has them."""
    size = sampling.sample(tensor).float().abs()
    return not bool(size.any()) or bool(((size > 0) & (size < _TINY)).any())


def _is_cheap(source: Source, tensor: torch.Tensor) -> bool:
    return source.converter is None or tensor.nbytes <= _CONVERTED_LIMIT


def has_local_files(model: nn.Module, spec: Any) -> bool:
    """Whether the files are on this machine already; nothing is downloaded for a diagnosis."""
    import os

    from diag.loading import samples
    from diag.loading.origin import checkpoint_name

    name = checkpoint_name(model, spec)
    return bool(name) and (name in samples.names() or os.path.isdir(name))


def rewritten(model: nn.Module, spec: Any = None) -> list[str]:
    """Tensors that the base's local files hold only under the names of a PeftModel; reads headers of files."""
    from diag.loading.checkpoint.stored import keys_of
    from diag.loading.origin import checkpoint_name

    folder = Path(checkpoint_name(model, spec) or "?")
    if not folder.is_dir():
        return []
    try:
        keys = {key for file in folder.glob("model*.safetensors") for key, _ in keys_of(file)}
    except Exception:  # a damaged file: others say so
        return []
    names = {plain_name(entry.name) for entry in entries(model)}
    return sorted(n for n in names if n not in keys and f"base_model.model.{n}" in keys)


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
