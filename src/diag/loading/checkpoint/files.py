"""Finds a model's files and checks that they are whole, before any weight is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diag.errors import CheckpointError

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.(safetensors|bin)\Z")
_PINNED: dict[str, str] = {}


@dataclass(frozen=True)
class Checkpoint:
    """A model's files: the folder, its config.json as a dict, its weight files, and the commit for a hub model."""

    model: str
    folder: Path
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    revision: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the checkpoint does: the commit, or names, sizes and times of its files, settings included."""
        if self.revision is not None:
            return self.revision
        from diag.loading.checkpoint.hub import SETTINGS

        settings = {path for pattern in SETTINGS for path in self.folder.glob(pattern)}
        paths = sorted({*settings, *self.files})
        facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        return hashlib.sha256(json.dumps([str(self.folder.resolve()), facts]).encode()).hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def find_checkpoint(model: str) -> Checkpoint:
    """The files of a sample, a local folder or a hub model, in that order, checked.

    Raises CheckpointError when a folder has no config, a shard is missing, truncated or not in the index, or the hub
    model is neither cached nor reachable.
    """
    from diag.loading import samples

    if model in samples.names():
        return _local(model, Path(samples.path(model)))
    if os.path.isdir(model):
        return _local(model, Path(model))
    if model in _PINNED:
        folder = Path(_PINNED[model])
        return _local(model, folder, revision=folder.name)
    if _looks_like_a_path(model):
        raise CheckpointError(
            f"the folder {model!r} does not exist.",
            why=f"the current folder is {os.getcwd()!r}.",
            next_step="give an existing folder, a hub id (owner/name) or a sample: " + ", ".join(samples.names()) + ".",
        )
    return _from_hub(model)


def is_local(model: str) -> bool:
    """Whether this names a sample, a folder, or at least a path, so that the hub need not be asked."""
    from diag.loading import samples

    return model in samples.names() or os.path.isdir(model) or model in _PINNED or _looks_like_a_path(model)


def _looks_like_a_path(model: str) -> bool:
    return model.startswith((".", "/", "~", "\\")) or model.count("/") > 1 or os.path.isabs(model)


def _local(model: str, folder: Path, revision: str | None = None) -> Checkpoint:
    config = _read_config(folder)
    files = _weight_files(folder)
    for path in files:
        _check_whole(path)
    return Checkpoint(model, folder, config, files, revision)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        has = sorted(p.name for p in folder.iterdir())[:12]
        adapter = "adapter_config.json" in has
        raise CheckpointError(
            f"no config.json in {str(folder)!r}.",
            why="it is a PEFT adapter." if adapter else f"the folder holds: {', '.join(has) or 'nothing'}.",
            next_step="name the base model and pass this folder as adapter=." if adapter
            else "give the folder that save_pretrained wrote, with config.json in it.",
        )  # fmt: skip
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise CheckpointError(
            f"{path.name} in {str(path.parent)!r} is not valid JSON.", why=str(e), next_step="download the file again."
        ) from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} holds no JSON object.", next_step="download the file again.")
    return value


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
        if index.exists():
            return _indexed(index)
        if single.exists():
            return (single,)
    has = sorted(p.name for p in folder.iterdir())[:12]
    gguf = any(name.endswith(".gguf") for name in has)
    raise CheckpointError(
        f"no weights in {str(folder)!r}.",
        why=f"neither model.safetensors nor an index of shards is there; the folder holds: {', '.join(has)}.",
        next_step="convert the GGUF file once with from_pretrained(…, gguf_file=…) and save_pretrained." if gguf
        else "give the folder that save_pretrained wrote.",
    )  # fmt: skip


def _indexed(index: Path) -> tuple[Path, ...]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name} has no weight_map.", next_step="download the file again.")
    names = sorted(set(weight_map.values()))
    _check_all_numbered(index, names)
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        _raise_missing(index, missing, len(names), weight_map)
    paths = tuple(index.parent / name for name in names)
    for path in paths:
        if path.suffix == ".safetensors":
            _check_whole(path)
            _check_holds(path, (key for key, shard in weight_map.items() if shard == path.name))
    return paths


def _raise_missing(index: Path, missing: list[str], count: int, weight_map: dict[str, str]) -> None:
    lost = sorted(key for key, shard in weight_map.items() if shard in missing)
    raise CheckpointError(
        f"{len(missing)} of {count} shards are missing: {', '.join(missing[:4])}{' …' * (len(missing) > 4)}.",
        why=f"{index.name} places {len(lost)} tensors in them, {lost[0]} among them.",
        next_step="finish the download, or copy the missing files into the folder.",
    )


def _check_all_numbered(index: Path, names: list[str]) -> None:
    """`model-00002-of-00003` in the index says that three must be there."""
    matches = [m for m in map(_SHARD.match, names) if m]
    if not matches or len(matches) != len(names):
        return
    total = max(int(m[3]) for m in matches)
    absent = sorted(set(range(1, total + 1)) - {int(m[2]) for m in matches})
    if absent:
        shard = f"{matches[0][1]}-{absent[0]:05d}-of-{total:05d}.{matches[0][4]}"
        raise CheckpointError(
            f"{len(absent)} of {total} shards are not in the index, {shard} among them.",
            why=f"{index.name} mentions {len(names)}; tensors of the others would be newly initialised, silently.",
            next_step=f"download {index.name} again.",
        )


def _check_whole(path: Path) -> None:
    if path.suffix == ".bin":
        if not zipfile.is_zipfile(path):
            raise _truncated(path, "it is no complete zip archive, the format torch.save writes")
        return
    if path.suffix == ".safetensors":
        header, start = read_header(path)
        end = start + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        size = path.stat().st_size
        if size < end:
            raise _truncated(path, f"its header announces {end:,} bytes and {size:,} are there")


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file as a dict, and where its data begins (bytes).

    Source: safetensors format, 8 bytes little-endian length, then JSON. Raises CheckpointError for a broken file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = file.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else -1
        if length < 0 or 8 + length > size:
            raise _truncated(path, f"{size:,} bytes do not hold its own header")
        try:
            return json.loads(file.read(length)), 8 + length
        except (json.JSONDecodeError, UnicodeDecodeError) as e:
            raise _truncated(path, "its header is not readable") from e


def _check_holds(path: Path, keys: Iterable[str]) -> None:
    header, _ = read_header(path)
    absent = sorted(set(keys) - header.keys())
    if absent:
        raise CheckpointError(
            f"{path.name} does not hold {len(absent)} tensors that the index places there, {absent[0]} among them.",
            why="index and shard come from different versions of the model.",
            next_step="download the index and all shards again, from one revision.",
        )


def _truncated(path: Path, fact: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} in {str(path.parent)!r} is damaged.",
        why=f"{fact}: the download or copy was cut off.",
        next_step="delete this file and download it again.",
    )


def _from_hub(model: str) -> Checkpoint:
    from diag.loading.checkpoint import hub

    folder = hub.fetch(model)
    return _local(model, folder, revision=folder.name)


def check_folder(folder: Path) -> None:
    """Raises CheckpointError where config, weights or a shard are missing or cut off."""
    _local(str(folder), folder)


def pin(folders: Mapping[str, str]) -> None:
    """Lets this process take these hub models from these snapshot folders, without asking the hub again."""
    _PINNED.update(folders)
