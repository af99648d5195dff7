"""What a model's folder holds, and whether it is whole. Asked before any weight is read."""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open

from diag.errors import CheckpointError

SETTINGS = ("*.json", "*.model", "*.txt", "*.jinja")  # config, tokenizer, processor, generation, templates
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.(safetensors|bin)\Z")


@dataclass(frozen=True)
class Checkpoint:
    """A model's files: the folder, its config.json as a dict, its weight files, and the commit for a hub model."""

    model: str
    folder: Path
    config: Mapping[str, object]
    files: tuple[Path, ...]
    revision: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the checkpoint does: the commit, or names, sizes and times of its files, settings included."""
        if self.revision is not None:
            return self.revision
        settings = {path for pattern in SETTINGS for path in self.folder.glob(pattern)}
        paths = sorted({*settings, *self.files})
        facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        return hashlib.sha256(json.dumps([str(self.folder.resolve()), facts]).encode()).hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def read_folder(folder: Path, model: str = "", revision: str | None = None) -> Checkpoint:
    """The checkpoint in a folder; `model` is the name it was asked for by.

    Raises CheckpointError where there is no config, or a weight file is missing, damaged or not in the index.
    """
    settings = folder / "config.json"
    if not settings.exists():
        why = f"the folder holds: {_names_in(folder) or 'nothing'}."
        next_step = "give the folder that save_pretrained wrote, with config.json in it."
        if (folder / "adapter_config.json").exists():
            why, next_step = "it is a PEFT adapter.", "name the base model and pass this folder as adapter=."
        raise CheckpointError(f"no config.json in {str(folder)!r}.", why=why, next_step=next_step)
    config, files = _read_json(settings), _weight_files(folder)
    for path, keys in files.items():
        _check_whole(path, keys)
    return Checkpoint(model or str(folder), folder, config, tuple(files), revision)


def _names_in(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:12])


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        what = f"{path.name} in {str(path.parent)!r} is not valid JSON."
        raise CheckpointError(what, why=str(e), next_step="download the file again.") from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} holds no JSON object.", next_step="download the file again.")
    return value


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """The weight files, and the tensors that an index places in each."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
        if index.exists():
            return _indexed(index)
        if single.exists():
            return {single: []}
    next_step = "give the folder that save_pretrained wrote."
    if any(folder.glob("*.gguf")):
        next_step = "convert the GGUF file once with from_pretrained(…, gguf_file=…) and save_pretrained."
    why = f"neither model.safetensors nor an index of shards is there; the folder holds: {_names_in(folder)}."
    raise CheckpointError(f"no weights in {str(folder)!r}.", why=why, next_step=next_step)


def _indexed(index: Path) -> dict[Path, list[str]]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name} has no weight_map.", next_step="download the file again.")
    names = sorted(set(weight_map.values()))
    _check_all_numbered(index, names)
    files: dict[Path, list[str]] = {index.parent / name: [] for name in names}
    for key, name in weight_map.items():
        files[index.parent / name].append(key)
    missing = [path for path in files if not path.exists()]
    if missing:
        lost = sorted(key for path in missing for key in files[path])
        shown = ", ".join(path.name for path in missing[:4]) + " …" * (len(missing) > 4)
        raise CheckpointError(
            f"{len(missing)} of {len(names)} shards are missing: {shown}.",
            why=f"{index.name} places {len(lost)} tensors in them, {lost[0]} among them.",
            next_step="finish the download, or copy the missing files into the folder.",
        )
    return files


def _check_all_numbered(index: Path, names: list[str]) -> None:
    """`model-00002-of-00003` in the index says that three must be there."""
    matches = [m for m in map(_SHARD.match, names) if m]
    if not matches or len(matches) != len(names):
        return
    total = max(int(m[3]) for m in matches)
    absent = sorted(set(range(1, total + 1)) - {int(m[2]) for m in matches})
    if absent:
        shard = f"{matches[0][1]}-{absent[0]:05d}-of-{total:05d}.{matches[0][4]}"
        what = f"{len(absent)} of {total} shards are not in the index, {shard} among them."
        why = f"{index.name} mentions {len(names)}; tensors of the others would be newly initialised, silently."
        raise CheckpointError(what, why=why, next_step=f"download {index.name} again.")


def _check_whole(path: Path, keys: Iterable[str]) -> None:
    """Raises CheckpointError for a file that its own library refuses, or that lacks one of these tensors."""
    if path.suffix == ".bin":
        if not zipfile.is_zipfile(path):
            raise _damaged(path, "it is no complete zip archive, the format that torch.save writes")
        return
    try:
        with safe_open(path, framework="numpy") as file:
            absent = sorted(set(keys).difference(file.keys()))
    except (SafetensorError, OSError) as e:
        raise _damaged(path, f"safetensors can't open it ({e})") from e
    if absent:
        what = f"{path.name} does not hold {len(absent)} tensors that the index places there, {absent[0]} among them."
        why = "index and shard come from different versions of the model."
        raise CheckpointError(what, why=why, next_step="download the index and all shards again, from one revision.")


def _damaged(path: Path, fact: str) -> CheckpointError:
    what = f"{path.name} in {str(path.parent)!r} is damaged."
    why = f"{fact}; a download or copy that was cut off is the usual reason."
    return CheckpointError(what, why=why, next_step="delete this file and download it again.")
