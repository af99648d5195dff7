"""Are the values the right ones? Non-finite numbers, values that no load has put there, and samples of the files.

Only samples of each tensor are read (some kilobytes), so this stays fast on large models; `diag.verify_weights`
compares everything. What the user did to the values is not wrong: training, moved or copied layers, merged adapters.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from diag.diagnosis.evidence import ModelFacts
from diag.loading.checkpoint.stored import Source, keys_of, plain_name, readable_sources, sources_of
from diag.models.adapters import adapter_configs
from diag.models.entries import Entry, Unreadable
from diag.models.snapshot import Snapshot
from diag.proving import sampling
from diag.values.finding import names_in_words

MARK = "_is_hf_initialized"  # transformers leaves it on what it loaded: modules, and from version 5 parameters
_CONVERTED_LIMIT = 64 * 2**20
_STEPS = 6  # changes in place: more than any initialisation makes, so an optimizer was at work


def value_facts(snapshot: Snapshot, files: Sequence[Path], skipped: list[Unreadable]) -> ModelFacts:
    """What samples of the values show, compared with `files`; what could not be read is added to `skipped`."""
    found = _FoundValues(snapshot, files)
    skipped += found.unreadable()
    wrong, never = found.unrelated()
    missing, renamed = found.not_stored()
    unfilled, diverged = found.not_finite()
    return ModelFacts(
        not_finite=unfilled,
        diverged=diverged,
        wrong_values=wrong if not unfilled else (*wrong, *never),
        never_loaded=never if not unfilled else (),
        lost_rows=found.names("lost rows"),
        not_stored=missing,
        renamed=renamed,
        examined=found.examined,
    )


class _FoundValues:
    """Every tensor that is here, compared with its file where the files are on this machine."""

    def __init__(self, snapshot: Snapshot, files: Sequence[Path]) -> None:
        self._snapshot = snapshot
        self._entries = [e for e in snapshot.entries if e.can_be_sampled]
        self._alike: dict[tuple[object, ...], list[torch.Tensor]] = {}
        own = [e for e in self._entries if not e.put_in and e.kind in ("parameter", "buffer")]
        self._files = readable_sources(files, snapshot)
        self._own = sources_of(own, self._files, snapshot.ties)
        self.examined: tuple[str, ...] = ("samples of every tensor's values",)
        if self._files:
            self.examined += ("samples of the checkpoint's files (diag.verify_weights compares every value)",)
        self._odd: list[Entry] = []
        self._verdicts: dict[str, list[Entry]] = {}
        self._failed: dict[str, list[str]] = {}
        for entry in self._entries:
            if entry.tensor.is_floating_point():
                self._look(entry)

    def _look(self, entry: Entry) -> None:
        """Samples one tensor: are its numbers odd, and are they those of its file?"""
        try:
            source, tensor = self._own.get(entry.name), entry.tensor
            is_too_much = source is not None and source.converter is not None and entry.nbytes > _CONVERTED_LIMIT
            here, verdict = sampling.sample(tensor), ""
            if entry.kind != "buffer" and sampling.is_odd(here, entry.kind, entry.numel):
                self._odd.append(entry)
            if source is not None and not entry.is_packed and not is_too_much:
                verdict = sampling.compare(here, source, tensor)
                if verdict == "unrelated" and self._was_meant(entry, source, here):
                    verdict = ""
        except Exception as error:
            self._failed.setdefault(Unreadable.because("", error).why, []).append(entry.name)
        else:
            self._verdicts.setdefault(verdict, []).append(entry)

    def unreadable(self) -> list[Unreadable]:
        """Tensors whose values were not looked at, one for each reason."""
        left_out: dict[str, list[str]] = {}
        for e in self._snapshot.entries:
            if not e.is_meta and not e.can_be_sampled:
                why = f"a {type(e.tensor).__name__} computes by itself and may ask other processes for its numbers"
                left_out.setdefault(why, []).append(e.name)
        return [
            Unreadable(f"the values of {names_in_words(names, 2)}", why)
            for why, names in (*left_out.items(), *self._failed.items())
        ]

    def names(self, verdict: str) -> tuple[str, ...]:
        return tuple(entry.name for entry in self._verdicts.get(verdict, ()))

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
        key = (entry.shape, entry.dtype, entry.local_name)
        if key not in self._alike:
            built = [s for s in self._files.values() if s.shape is None and s.name.endswith(entry.local_name)]
            alike = [s for s in self._files.values() if s.shape == entry.shape]
            alike += built if entry.nbytes <= _CONVERTED_LIMIT else []
            found = (sampling.stored_sample(s, entry.tensor) for s in alike)
            self._alike[key] = [one for one in found if one is not None]
        return any(not sampling.unrelated(here, one) for one in self._alike[key])

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
        if not self._files or len(self.names("moved")) > len(self.names("same")):  # unknown, or trained
            return (), False
        own = [e for e in self._entries if e.name in self._own]
        parameters = [e for e in own if e.kind == "parameter"]
        loaded = [
            e for e in parameters if _is_marked(e.owner)
        ]  # and neither the loader nor an optimizer touched these:
        untouched = [e for e in loaded if not (_is_marked(e.tensor) or _was_updated(e.tensor))]
        unfilled = [e for e in untouched if self._own[e.name] is None]
        missing = [e for e in unfilled if not self._is_elsewhere(e, sampling.sample(e.tensor))]
        known = sum(self._own[e.name] is not None for e in parameters)
        placed = {source.name for source in self._own.values() if source is not None}
        left_over = {name: source.shape for name, source in self._files.items() if name not in placed}
        renamed = 2 * sum(_has_namesake(e, left_over) for e in missing) > len(missing)
        says_something = any(not sampling.is_constant(sampling.sample(e.tensor)) for e in missing)
        is_plain = any(_is_marked(e.tensor) for e in own) or known > 2 * len(missing) or (renamed and says_something)
        return (tuple(e.name for e in missing), renamed) if is_plain else ((), False)

    def not_finite(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(tensors that hold what nobody put there, tensors that training has driven to NaN or infinity)."""
        diverged = [e for e in self._odd if _was_updated(e.tensor)]
        unfilled = [e for e in self._odd if not _was_updated(e.tensor)]
        if len(unfilled) > 1 and all(_is_untouched(e.tensor) for e in unfilled):  # then others may look harmless
            compared = (*self._verdicts.get("same", ()), *self._verdicts.get("moved", ()))
            known = {id(e.tensor) for e in (*unfilled, *compared)}
            others = [e for e in self._entries if e.kind == "parameter" and id(e.tensor) not in known]
            unfilled += [
                e for e in others if _is_untouched(e.tensor) and sampling.looks_left_over(sampling.sample(e.tensor))
            ]
        return tuple(e.name for e in unfilled), tuple(e.name for e in diverged)


def _has_namesake(entry: Entry, left_over: Mapping[str, tuple[int, ...] | None]) -> bool:
    """Whether the files hold a tensor with the same last names and shape that the model has no place for."""
    ending = f".{'.'.join(entry.name.split('.')[-2:])}"
    return any(name.endswith(ending) and shape == entry.shape for name, shape in left_over.items())


def _is_marked(of: torch.Tensor | nn.Module) -> bool:
    return bool(getattr(of, MARK, False))


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _was_updated(tensor: torch.Tensor) -> bool:
    """Whether an optimizer was at work on it."""
    return _version(tensor) >= _STEPS or (_version(tensor) > 0 and tensor.is_leaf and tensor.grad is not None)


def _is_untouched(tensor: torch.Tensor) -> bool:
    """Neither loaded by transformers nor written to since it was allocated."""
    return not _is_marked(tensor) and _version(tensor) == 0


def rewritten(snapshot: Snapshot, name: str) -> list[str]:
    """Tensors that the base's local files hold only under the names of a PeftModel; reads headers of files."""
    folder = Path(name or "?")
    if not folder.is_dir():
        return []
    try:
        keys = {key for file in folder.glob("model*.safetensors") for key, _ in keys_of(file)}
    except Exception:  # a damaged file: others say so
        return []
    names = {plain_name(entry.name) for entry in snapshot.entries}
    return sorted(n for n in names if n not in keys and f"base_model.model.{n}" in keys)


def dead_adapter(snapshot: Snapshot) -> list[str]:
    """LoRA matrices of an active adapter that was loaded for inference, all zero: that adapter changes nothing."""
    if not snapshot.carries_adapter:
        return []
    dead = []
    parameters = [e for e in snapshot.distinct.values() if e.kind == "parameter"]
    for adapter, config in adapter_configs(snapshot.root).items():
        parts = (f"lora_B.{adapter}.", f"lora_embedding_B.{adapter}.")
        outer = [e for e in parameters if any(part in f"{e.name}." for part in parts)]
        used = any(e.is_meta or bool(e.tensor.detach().count_nonzero()) for e in outer)
        if outer and not used and getattr(config, "inference_mode", False):
            dead += [entry.name for entry in outer]
    return dead
