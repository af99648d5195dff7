"""Whether a meta tensor has its data somewhere. The decision rule of this project: it is offloaded only if

(a) its owner, or an ancestor whose hook has `place_submodules=True`, carries an `AlignDevicesHook` with
    `offload=True`, also inside `SequentialHook.hooks`;
(b) that hook brings this tensor back, from a `weights_map` that holds it (and, for disk, whose file exists);
(c) the module's `forward` still reaches accelerate's wrapper.

Source: accelerate `hooks.py` (AlignDevicesHook.pre_forward), `utils/offload.py` (OffloadedWeightsLoader), read at
1.15.0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import torch
from torch import nn

from diag.models.forwards import Reach

Device = int | str | torch.device  # as maps and hooks hold it


class Absence(StrEnum):
    """Why nobody has the data of a meta tensor, in words that follow "A hook serves them, and"."""

    NO_HOOK = "no hook on its module holds it"
    NOT_BROUGHT_BACK = "the hook does not bring this kind of tensor back"
    NOT_IN_STORE = "the hook's weights_map does not have it"
    STORE_IS_META = "the hook's weights_map holds a meta tensor, which has no data either"
    FILE_MISSING = "the file that backs it is gone"
    FORWARD_BYPASSED = "its module's forward no longer reaches the hook"


@dataclass(frozen=True)
class Backing:
    """Where the data of one tensor is: `resident`, `offloaded` or `none`, and for `none` the reason.

    `undecided` is True where it could not be settled whether the forward reaches the hook, or what the store holds;
    `store` is `disk` or `cpu` for offloaded tensors.
    """

    kind: str
    reason: Absence | None = None
    store: str = ""
    undecided: bool = False


_one_of_each = lru_cache(maxsize=64)(Backing)  # thousands of tensors share a handful of verdicts
RESIDENT = Backing("resident")


@dataclass(frozen=True)
class Hook:
    """One AlignDevicesHook as it was when the model was read, and the module that carries it.

    `store` is None without a `weights_map`, and where that could not be read; `prefix` stands before the names of this
    module in the store. `reach` says whether the carrier's forward leads to accelerate's wrapper; it is only found out
    for hooks that offload.
    """

    carrier: nn.Module
    carrier_path: str
    execution_device: Device | None
    offload: bool
    offload_buffers: bool
    place_submodules: bool
    weights_map: Mapping[str, torch.Tensor] | None
    store: WeightStore | None
    prefix: str
    reach: Reach


@dataclass(frozen=True)
class Serving:
    """One hook that serves a module, and the path to that module from the one that carries the hook."""

    hook: Hook
    local_prefix: str = ""

    def key(self, local_name: str) -> str:
        """The tensor's name in the store behind the hook."""
        return f"{self.hook.prefix}{self.local_prefix}{local_name}"

    def brings(self, kind: str) -> bool:
        """Whether the hook fetches tensors of this kind before a forward."""
        return kind == "parameter" or (kind == "buffer" and self.hook.offload_buffers)

    def read(self, local_name: str) -> torch.Tensor | None:
        """The tensor's data out of the store, from disk where it is there; None where the store has no such name."""
        try:
            return None if self.hook.weights_map is None else self.hook.weights_map[self.local_prefix + local_name]
        except KeyError:
            return None


def backing(serving: tuple[Serving, ...], local_name: str, kind: str) -> Backing:
    """Whether these hooks hold a *meta* tensor of their module; `kind` as in the placement table."""
    verdict = _one_of_each("none", Absence.NO_HOOK)
    for one in serving:
        if one.hook.offload:
            verdict = _backing_by(one, local_name, kind)
            if verdict.kind == "offloaded":
                return verdict
    return verdict


def _backing_by(serving: Serving, local_name: str, kind: str) -> Backing:
    hook, key = serving.hook, serving.key(local_name)
    if not serving.brings(kind):
        return _one_of_each("none", Absence.NOT_BROUGHT_BACK)
    if hook.weights_map is None:
        return _one_of_each("none", Absence.NOT_IN_STORE)
    if hook.store is None:
        return _one_of_each("offloaded", undecided=True)
    problem = hook.store.why_not(key)
    if problem is not None:
        return _one_of_each("none", problem)
    if hook.reach is Reach.NO:
        return _one_of_each("none", Absence.FORWARD_BYPASSED, hook.store.kind(key))
    return _one_of_each("offloaded", None, hook.store.kind(key), hook.reach is Reach.UNDECIDED)


def is_sought_in_vain(serving: tuple[Serving, ...], local_name: str, kind: str) -> bool:
    """Whether a hook will ask its store for a tensor that is *here*, and not find it.

    accelerate fetches every tensor of a hooked module before each forward, also one that was left in place because it
    is tied to a resident one; the forward ends in a KeyError.
    """
    return any(
        one.hook.offload
        and one.hook.store is not None
        and one.hook.reach is Reach.YES
        and one.brings(kind)
        and one.key(local_name) not in one.hook.store.keys
        for one in serving
    )


class WeightStore:
    """One offload store, asked without reading a tensor.

    `name in weights_map` would read it from disk (Mapping.__contains__ calls __getitem__), so the keys are taken once.
    """

    def __init__(self, mapping: object) -> None:
        held = mapping if isinstance(mapping, dict) else getattr(mapping, "state_dict", None)
        self.tensors: Mapping[str, object] = held or {}
        self.index: Mapping[str, object] = getattr(mapping, "index", None) or {}
        self.folder: str | os.PathLike[str] | None = getattr(mapping, "save_folder", None)
        keys = getattr(mapping, "all_keys", None)
        self.keys = frozenset(keys if keys is not None else self.tensors)
        self._exists: dict[str, bool] = {}
        self._mapping = mapping  # kept alive: the index knows stores by their id

    def kind(self, key: str) -> str:
        """`cpu` or `disk`: where the store keeps what it has."""
        return "cpu" if key in self.tensors else "disk"

    def why_not(self, key: str) -> Absence | None:
        """None when the store has the data of `key`; otherwise the reason."""
        if key not in self.keys:
            return Absence.NOT_IN_STORE
        if key in self.tensors:
            return Absence.STORE_IS_META if getattr(self.tensors[key], "is_meta", False) else None
        info, path = self.index.get(key), None
        if isinstance(info, Mapping) and info.get("safetensors_file"):
            path = os.fspath(info["safetensors_file"])
        elif self.folder is not None:
            path = os.path.join(os.fspath(self.folder), f"{key}.dat")
        if path is not None and path not in self._exists:
            self._exists[path] = os.path.exists(path)
        return None if path is None or self._exists[path] else Absence.FILE_MISSING
