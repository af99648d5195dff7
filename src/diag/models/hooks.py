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
from typing import Any

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

    `undecided` is True where it could not be settled whether the forward reaches the hook; `store` is `disk` or `cpu`
    for offloaded tensors.
    """

    kind: str
    reason: str = ""
    store: str = ""
    undecided: bool = False


RESIDENT = Backing("resident")


@dataclass(frozen=True)
class Serving:
    """One hook that serves a module: the hook, the module that carries it, and the path from there to the module."""

    hook: Any
    carrier: nn.Module
    carrier_path: str
    local_prefix: str


def align_hooks(module: nn.Module) -> tuple[Any, ...]:
    """The AlignDevicesHook-like hooks on one module, also those inside (nested) SequentialHooks."""
    return tuple(_flatten(module.__dict__.get("_hf_hook")))


def _flatten(hook: Any) -> Iterator[Any]:
    if hook is None:
        return
    inner = getattr(hook, "hooks", None)
    if isinstance(inner, (tuple, list)):
        for one in inner:
            yield from _flatten(one)
    elif hasattr(hook, "execution_device") and hasattr(hook, "offload"):
        yield hook


class HookIndex:
    """All hooks of a model, read once; answers per tensor. Reads attributes only and changes nothing."""

    def __init__(self, model: nn.Module) -> None:
        self._serving: dict[str, tuple[Serving, ...]] = {}
        self._reach: dict[int, Reach] = {}
        self._stores: dict[int, Store] = {}
        self._keep: list[Any] = []  # ids are only good while their objects live
        self._walk(model, "", ())

    def _walk(self, module: nn.Module, path: str, inherited: tuple[Serving, ...]) -> None:
        own = tuple(Serving(hook, module, path, "") for hook in align_hooks(module))
        self._serving[path] = (*own, *inherited)
        passed_on = [s for s in (*own, *inherited) if s.hook.place_submodules]
        for name, child in module._modules.items():
            if child is not None:
                below = tuple(Serving(s.hook, s.carrier, s.carrier_path, f"{s.local_prefix}{name}.") for s in passed_on)
                self._walk(child, f"{path}.{name}" if path else name, below)

    def serving(self, module_path: str) -> tuple[Serving, ...]:
        """The hooks that serve this module's tensors, its own first."""
        return self._serving.get(module_path, ())

    def execution_device(self, module_path: str) -> Any:
        """Where the module's hook runs it, as accelerate holds it; None without a hook."""
        for serving in self.serving(module_path):
            if serving.hook.execution_device is not None:
                return serving.hook.execution_device
        return None

    def backing(self, module_path: str, local_name: str, kind: str) -> Backing:
        """Whether a *meta* tensor is offloaded; `kind` as in the placement table."""
        verdict = Backing("none", NO_HOOK)
        for serving in self.serving(module_path):
            if not serving.hook.offload:
                continue
            verdict = self._by(serving, serving.local_prefix + local_name, kind)
            if verdict.kind == "offloaded":
                return verdict
        return verdict

    def lacks(self, module_path: str, local_name: str, kind: str) -> bool:
        """Whether a hook will ask its store for this tensor, which is *here*, and not find it.

        accelerate fetches every tensor of a hooked module before each forward, also one that was left in place because
        it is tied to a resident one; the forward ends in a KeyError.
        """
        for serving in self.serving(module_path):
            fetched = kind == "parameter" or (kind == "buffer" and getattr(serving.hook, "offload_buffers", False))
            if not serving.hook.offload or not fetched or serving.hook.weights_map is None:
                continue
            store, prefix = self._store(serving.hook.weights_map)
            missing = store.why_not(prefix + serving.local_prefix + local_name) == NOT_IN_STORE
            if missing and self.forward_reach(serving.carrier) is Reach.YES:
                return True
        return False

    def forward_reach(self, module: nn.Module) -> Reach:
        """Whether this module's forward still reaches accelerate's wrapper (rule c)."""
        if id(module) not in self._reach:
            self._keep.append(module)
            self._reach[id(module)] = reaches_wrapper(module)
        return self._reach[id(module)]

    def _by(self, serving: Serving, name: str, kind: str) -> Backing:
        if kind in ("non_persistent_buffer", "quant_state") or (
            kind == "buffer" and not getattr(serving.hook, "offload_buffers", False)
        ):
            return Backing("none", NOT_BROUGHT_BACK)
        store, prefix = self._store(serving.hook.weights_map)
        problem = store.why_not(prefix + name)
        if problem:
            return Backing("none", problem)
        reach = self.forward_reach(serving.carrier)
        if reach is Reach.NO:
            return Backing("none", FORWARD_BYPASSED, store.kind(prefix + name))
        return Backing("offloaded", "", store.kind(prefix + name), undecided=reach is Reach.UNDECIDED)

    def _store(self, weights_map: Any) -> tuple[Store, str]:
        prefix = ""
        while hasattr(weights_map, "dataset") and hasattr(weights_map, "prefix"):
            prefix = weights_map.prefix + prefix
            weights_map = weights_map.dataset
        if id(weights_map) not in self._stores:
            self._keep.append(weights_map)
            self._stores[id(weights_map)] = Store(weights_map)
        return self._stores[id(weights_map)], prefix


class Store:
    """One offload store, asked without reading a tensor.

    `name in weights_map` would read it from disk (Mapping.__contains__ calls __getitem__), so the keys are taken once.
    """

    def __init__(self, mapping: Any) -> None:
        self.tensors: Mapping[str, Any] = getattr(mapping, "state_dict", None) or {}
        self.index: Mapping[str, Any] = getattr(mapping, "index", None) or {}
        self.folder = getattr(mapping, "save_folder", None)
        if isinstance(mapping, dict):
            self.tensors = mapping
        keys = getattr(mapping, "all_keys", None)
        self.keys = frozenset(keys if keys is not None else self.tensors)
        self._exists: dict[str, bool] = {}

    def kind(self, key: str) -> str:
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


def device_namer(accelerator: str | None) -> Callable[[Any], str]:
    """Turns devices as accelerate holds them (0, 'cuda:1', torch.device) into text; integers are the accelerator's."""

    def name(device: Any) -> str:
        if isinstance(device, int) and not isinstance(device, bool):
            return f"{accelerator}:{device}" if accelerator else str(device)
        text = str(device)
        return f"{text}:0" if text == accelerator else text

    return name
