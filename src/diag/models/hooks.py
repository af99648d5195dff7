"""The only reader of accelerate's internals: which hook serves a module, and whether a meta tensor has its data there.

A meta tensor is offloaded only if all three hold (the decision rule of this project):
(a) its owner, or an ancestor whose hook has `place_submodules=True`, carries an `AlignDevicesHook` with
    `offload=True`, also inside `SequentialHook.hooks`;
(b) that hook brings this tensor back, from a `weights_map` that holds it (and, for disk, whose file exists);
(c) the module's `forward` still reaches accelerate's wrapper.

Source: accelerate `hooks.py` (AlignDevicesHook, SequentialHook, add_hook_to_module), `utils/offload.py`
(OffloadedWeightsLoader, PrefixedDataset), read at 1.15.0. accelerate itself is never imported here: what it left on
the model is enough, so this works beside any version of it, and on models it never touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

import torch
from torch import nn

from diag.models.forwards import Reach, reaches_wrapper

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
    reason: str = ""
    store: str = ""
    undecided: bool = False


Device = int | str | torch.device  # as maps and hooks hold it
_one_of_each = lru_cache(maxsize=64)(Backing)  # thousands of tensors share a handful of verdicts
RESIDENT = Backing("resident")
_NO_HOOK = Backing("none", NO_HOOK)
_NOT_BROUGHT_BACK = Backing("none", NOT_BROUGHT_BACK)


class AlignHook(Protocol):
    """The attributes of accelerate's AlignDevicesHook that are read here."""

    execution_device: object
    offload: bool


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


def align_hooks(module: nn.Module) -> tuple[AlignHook, ...]:
    """The AlignDevicesHook-like hooks on one module, also those inside (nested) SequentialHooks."""
    return tuple(_flatten(module.__dict__.get("_hf_hook")))


def _flatten(hook: object) -> Iterator[AlignHook]:
    inner = getattr(hook, "hooks", None)
    if isinstance(inner, (tuple, list)):
        for one in inner:
            yield from _flatten(one)
    elif hasattr(hook, "execution_device") and hasattr(hook, "offload"):
        yield cast(AlignHook, hook)


class HookIndex:
    """All hooks of a model, read once; answers per module. Reads attributes only and changes nothing.

    `on_failure(what, error)` is called for what could not be read.
    """

    def __init__(self, on_failure: Callable[[str, Exception], None]) -> None:
        self.hooks: list[Hook] = []
        self._on_failure = on_failure
        self._serving: dict[str, tuple[Serving, ...]] = {}
        self._stores: dict[int, WeightStore | None] = {}
        self._reach: dict[int, Reach] = {}

    def enter(self, module: nn.Module, path: str, name: str, above: tuple[Serving, ...]) -> tuple[Serving, ...]:
        """Reads one module's own hooks; `name` is what its parent calls it, `above` what serves its parent."""
        if not above and "_hf_hook" not in module.__dict__:
            return ()
        below = tuple(Serving(s.hook, f"{s.local_prefix}{name}.") for s in above if s.hook.place_submodules)
        self._serving[path] = (*self._read(module, path), *below)
        return self._serving[path]

    def _read(self, module: nn.Module, path: str) -> tuple[Serving, ...]:
        if "_hf_hook" not in module.__dict__:
            return ()
        try:
            own = [self._as_value(hook, module, path) for hook in align_hooks(module)]
        except Exception as error:
            self._on_failure(f"the hook on {path or 'the model'}", error)
            return ()
        self.hooks += own
        return tuple(Serving(one) for one in own)

    def _as_value(self, hook: AlignHook, module: nn.Module, path: str) -> Hook:
        given = getattr(hook, "weights_map", None)
        mapping: Any = given
        prefix = ""
        while hasattr(mapping, "dataset") and hasattr(mapping, "prefix"):
            prefix = mapping.prefix + prefix
            mapping = mapping.dataset
        return Hook(
            carrier=module,
            carrier_path=path,
            execution_device=held_device(hook.execution_device),
            offload=bool(hook.offload),
            offload_buffers=bool(getattr(hook, "offload_buffers", False)),
            place_submodules=bool(getattr(hook, "place_submodules", False)),
            weights_map=given,
            store=None if given is None else self._store(mapping, path),
            prefix=prefix,
            reach=self._reach_of(module, path) if hook.offload else Reach.UNDECIDED,
        )

    def _store(self, mapping: object, path: str) -> WeightStore | None:
        if id(mapping) not in self._stores:
            try:
                self._stores[id(mapping)] = WeightStore(mapping)
            except Exception as error:
                self._on_failure(f"the weights_map of the hook on {path or 'the model'}", error)
                self._stores[id(mapping)] = None
        return self._stores[id(mapping)]

    def _reach_of(self, module: nn.Module, path: str) -> Reach:
        """Whether this module's forward still reaches accelerate's wrapper (rule c)."""
        if id(module) not in self._reach:
            try:
                self._reach[id(module)] = reaches_wrapper(module)
            except Exception as error:
                self._on_failure(f"the forward of {path or 'the model'}", error)
                self._reach[id(module)] = Reach.UNDECIDED
        return self._reach[id(module)]

    def serving(self, module_path: str) -> tuple[Serving, ...]:
        """The hooks that serve this module's tensors, its own first."""
        return self._serving.get(module_path, ())


def execution_device(serving: tuple[Serving, ...]) -> Device | None:
    """Where these hooks run their module, as accelerate holds it (0, 'cuda:1', torch.device); None without a hook."""
    return next((s.hook.execution_device for s in serving if s.hook.execution_device is not None), None)


def backing(serving: tuple[Serving, ...], local_name: str, kind: str) -> Backing:
    """Whether these hooks hold a *meta* tensor of their module; `kind` as in the placement table."""
    verdict = _NO_HOOK
    for one in serving:
        if one.hook.offload:
            verdict = _backing_by(one, local_name, kind)
            if verdict.kind == "offloaded":
                return verdict
    return verdict


def _backing_by(serving: Serving, local_name: str, kind: str) -> Backing:
    hook, key = serving.hook, serving.key(local_name)
    if not serving.brings(kind):
        return _NOT_BROUGHT_BACK
    if hook.store is None:
        return (
            _one_of_each("none", NOT_IN_STORE)
            if hook.weights_map is None
            else _one_of_each("offloaded", undecided=True)
        )
    problem = hook.store.why_not(key)
    if problem:
        return _one_of_each("none", problem)
    if hook.reach is Reach.NO:
        return _one_of_each("none", FORWARD_BYPASSED, hook.store.kind(key))
    return _one_of_each("offloaded", "", hook.store.kind(key), hook.reach is Reach.UNDECIDED)


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


def held_device(device: object) -> Device | None:
    """A device of a map or a hook as it stands there; what no library puts there, as text."""
    return device if device is None or isinstance(device, (int, str, torch.device)) else str(device)


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

    def why_not(self, key: str) -> str:
        """Empty when the store has the data of `key`; otherwise the reason."""
        if key not in self.keys:
            return NOT_IN_STORE
        if key in self.tensors:
            return STORE_IS_META if getattr(self.tensors[key], "is_meta", False) else ""
        path = self.file(key)
        return "" if path is None or self._file_exists(path) else FILE_MISSING

    def file(self, key: str) -> str | None:
        """The file that backs a key on disk, or None where it can't be told."""
        info = self.index.get(key)
        if isinstance(info, Mapping) and info.get("safetensors_file"):
            return os.fspath(info["safetensors_file"])
        return None if self.folder is None else os.path.join(os.fspath(self.folder), f"{key}.dat")

    def _file_exists(self, path: str) -> bool:
        if path not in self._exists:
            self._exists[path] = os.path.exists(path)
        return self._exists[path]
