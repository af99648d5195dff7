"""What a model's checkpoint files hold, under the model's own tensor names. Reads headers, then one tensor at a time.

transformers 5 renames tensors while loading, and stacks the experts of a mixture into one; its own mapping is asked
for both, so that files and model can be compared. Older versions have none, and names are compared as they are.
"""

import copy
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import safe_open

from diag.errors import CheckpointError, CouldNotJudgeError
from diag.loading.checkpoint.find import find_checkpoint
from diag.loading.origin import Checkpointed, checkpoint_name, made_from
from diag.loading.transformers_private import Converter, Renamed, key_renamer
from diag.models.entries import Entry
from diag.models.snapshot import Snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: its key, file and shape. `read` gives rows of it without reading the whole file."""

    key: str
    file: Path
    shape: tuple[int, ...]

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows `start` to `stop` of the first dimension, on the CPU."""
        if self.file.suffix != ".safetensors":
            tensor = torch.load(self.file, map_location="cpu", weights_only=True, mmap=True)[self.key]
            return tensor if not self.shape else tensor[start:stop]
        with safe_open(str(self.file), framework="pt", device="cpu") as handle:
            return handle.get_slice(self.key)[start:stop] if self.shape else handle.get_tensor(self.key)


@dataclass(frozen=True)
class Source:
    """Where one tensor of the model comes from: one stored tensor, or several that a converter puts together.

    Where the converter makes several tensors of the model at once, `group` is the name of the first of them. `shape` is
    the stored one, None where it only shows after conversion.
    """

    name: str
    parts: tuple[StoredTensor, ...]
    converter: Converter | None = None
    patterns: tuple[str, ...] = ()
    group: str = ""
    shape: tuple[int, ...] | None = None

    @property
    def stacked(self) -> int | None:
        """How many groups of stored tensors (experts) become one row each; None where the files hold it otherwise."""
        operations = self.converter.operations if self.converter else []
        stacks = [one for one in operations if type(one).__name__ == "MergeModulelist"]
        counts = set(Counter(self.patterns).values())
        return counts.pop() if stacks and all(one.dim == 0 for one in stacks) and len(counts) == 1 else None

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows of the tensor. Stacked ones are read row by row; what is converted otherwise is built whole first."""
        if self.converter is None:
            return self.parts[0].read(start, stop)
        if self.stacked is None:
            return self.converted()[self.name][start:stop]
        return torch.cat([self._row(n) for n in range(self.stacked)[start:stop]])

    def _row(self, n: int) -> torch.Tensor:
        """What the converter makes of the n-th stored tensor of each pattern, alone."""
        seen: Counter[str] = Counter()
        chosen = []
        for part, pattern in zip(self.parts, self.patterns):
            chosen += [(part, pattern)] if seen[pattern] == n else []
            seen[pattern] += 1
        parts, patterns = zip(*chosen)
        return replace(self, parts=parts, patterns=patterns).converted()[self.name]

    def converted(self) -> dict[str, torch.Tensor]:
        """All that the converter makes of the parts, by the model's names."""
        converter, group = copy.deepcopy(self.converter), self.group or self.name
        assert converter is not None
        for part, pattern in zip(self.parts, self.patterns):
            converter.add_tensor(group, part.key, pattern, part.read)  # read when the converter needs it
        return converter.convert(group)


def sources(snapshot: Snapshot, checkpoint: Checkpointed = None) -> dict[str, Source]:
    """The files' tensors by the model's names, by transformers' own renaming and grouping; headers are read.

    A file's tensor that the model has no place for keeps its own name. Raises CouldNotJudgeError where the files are
    not to be found.
    """
    made, name = made_from(snapshot.root), checkpoint_name(snapshot.root, checkpoint)
    if made is not None and made.spec.model == name and (known := readable_sources(made.checkpoint.files, snapshot)):
        return known
    if not name:
        raise CouldNotJudgeError(
            "it is not known which checkpoint this model should equal.",
            why="neither load() nor its config says where it came from.",
            next_step="pass the folder: verify_weights(model, '/path/to/checkpoint').",
        )
    try:
        return _sources_in(find_checkpoint(name).files, snapshot)
    except CheckpointError as e:
        raise CouldNotJudgeError(f"the checkpoint {name!r} can't be read.", why=e.what, next_step=e.next_step) from e


def readable_sources(files: Iterable[Path], snapshot: Snapshot) -> dict[str, Source]:
    """The same for files that are known; empty where one of them can't be read."""
    try:
        return _sources_in(files, snapshot)
    except Exception:  # a load says why
        return {}


def _sources_in(paths: Iterable[Path], snapshot: Snapshot) -> dict[str, Source]:
    files = {key: StoredTensor(key, path, shape) for path in paths for key, shape in keys_of(path)}
    if not files:
        return {}
    names = {plain_name(entry.name): True for entry in snapshot.entries}
    keys = sorted(files, key=_natural)
    rename = key_renamer(cast("PreTrainedModel", snapshot.base), names)
    groups: dict[str, list[tuple[StoredTensor, Renamed]]] = {}
    for key in keys:
        renamed = rename(key)
        groups.setdefault(renamed.name, []).append((files[key], renamed))
    found = {}
    for name, group in groups.items():
        parts, renames = zip(*group)
        converter = renames[0].converter
        patterns = tuple(renamed.pattern for renamed in renames)
        found[name] = Source(name, parts, converter, patterns, shape=None if converter else parts[0].shape)
    return {**found, **_other_targets(found, names)}


def plain_name(name: str) -> str:
    """A tensor's name without what PEFT, torch.compile, a parametrization or pruning put around it."""
    plain = re.sub(r"^(?:base_model\.model\.)+", "", name.replace("_orig_mod.", ""))
    plain = re.sub(r"\.(?:base_layer|original_module|modules_to_save\.[^.]+)(?=\.)", "", plain)
    plain = re.sub(r"\bparametrizations\.([^.]+)\.original$", r"\1", plain)
    return re.sub(r"(?<=\.)(weight|bias)_orig$", r"\1", plain)


def source_of(name: str, files: Mapping[str, Source], tied: Mapping[str, str]) -> Source | None:
    """Where a tensor of this name comes from: its own entry in the files, or that of the name it is tied to."""
    plain = plain_name(name)
    followed = tied.get(name, tied.get(plain, ""))  # a PeftModel answers with the names of its base
    return files.get(plain) or files.get(plain_name(followed))


def sources_of(
    entries: Sequence[Entry], files: Mapping[str, Source], tied: Mapping[str, str]
) -> dict[str, Source | None]:
    """Where each of these tensors comes from; names of one tensor share what any of them has."""
    if not files:
        return {entry.name: None for entry in entries}
    own = {entry.name: source_of(entry.name, files, tied) for entry in entries}
    by_tensor = {id(entry.tensor): own[entry.name] for entry in entries if own[entry.name] is not None}
    return {entry.name: own[entry.name] or by_tensor.get(id(entry.tensor)) for entry in entries}


def _other_targets(found: Mapping[str, Source], names: Container[str]) -> dict[str, Source]:
    """A converter that splits one stored tensor serves several names; only the first is the group's own."""
    others: dict[str, Source] = {}
    for source in found.values():
        targets = source.converter.target_patterns if source.converter else []
        for target in targets[1:]:
            name = source.name.replace(targets[0], target)
            if name in names and name not in found:
                others[name] = replace(source, name=name, group=source.name)
    return others


def _natural(key: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


def keys_of(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of one file's tensors."""
    if path.suffix == ".safetensors":
        with safe_open(str(path), framework="pt") as handle:
            for key in handle.keys():  # noqa: SIM118 - not a mapping
                yield key, tuple(handle.get_slice(key).get_shape())
        return
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    yield from ((key, tuple(tensor.shape)) for key, tensor in state.items() if isinstance(tensor, torch.Tensor))
