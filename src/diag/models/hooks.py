"""The only reader of accelerate's internals: the hooks and device maps that it left on a model.

Source: accelerate `hooks.py` (AlignDevicesHook, SequentialHook, add_hook_to_module), `utils/offload.py`
(OffloadedWeightsLoader, PrefixedDataset), read at 1.15.0. accelerate itself is never imported here: what it left on
the model is enough, so this works beside any version of it, and on models it never touched.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from diag.models.backing import Device, Hook, Serving, WeightStore
from diag.models.forwards import Reach, reaches_wrapper
from diag.models.walk import OnFailure, Visit


class AlignHook(Protocol):
    """The attributes of accelerate's AlignDevicesHook that are read here."""

    execution_device: object
    offload: bool


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
    """All hooks and device maps of a model, read once. Reads attributes only and changes nothing but the visits.

    `device_map` is the model's own, `inner_maps` those of models inside it (as below PEFT's), all under full names.
    `serving` are the hooks that serve a module's tensors by its path, its own first, `execution_devices` where they run
    it; a path without any is in neither.
    `hooked` are the paths of modules that carry a hook.
    """

    def __init__(self, visits: Sequence[Visit], failed: OnFailure) -> None:
        self.hooks: list[Hook] = []
        self.device_map: dict[str, Device | None] = {}
        self.inner_maps: dict[str, Device | None] = {}
        self._failed = failed
        self.serving: dict[str, tuple[Serving, ...]] = {}
        self.execution_devices: dict[str, Device | None] = {}
        self._stores: dict[int, WeightStore | None] = {}
        self._reach: dict[int, Reach] = {}
        for at in visits:
            self._enter(at)
        self.hooked = frozenset(hook.carrier_path for hook in self.hooks)

    def _enter(self, at: Visit) -> None:
        """Reads what one module carries; its parent was entered before."""
        parent, attributes = at.parent, at.module.__dict__
        if parent is None or "hf_device_map" in attributes:
            self._read_map(at)
        at.mapped = self.device_map.get(at.path, parent.mapped if parent else None)
        at.mapped_inside = self.inner_maps.get(at.path, parent.mapped_inside if parent else None)
        above = parent.serving if parent else ()
        if not above and "_hf_hook" not in attributes:
            return
        below = tuple(Serving(s.hook, f"{s.local_prefix}{at.name}.") for s in above if s.hook.place_submodules)
        at.serving = self.serving[at.path] = (*self._read_hooks(at.module, at.path), *below)
        devices = [one.hook.execution_device for one in at.serving if one.hook.execution_device is not None]
        at.execution_device = self.execution_devices[at.path] = devices[0] if devices else None

    def _read_map(self, at: Visit) -> None:
        own = at.parent is None
        try:
            found = getattr(at.module, "hf_device_map", None) if own else at.module.__dict__.get("hf_device_map")
        except Exception as error:
            self._failed(f"hf_device_map of {type(at.module).__name__}", error)
            return
        if isinstance(found, Mapping):
            under = self.device_map if own else self.inner_maps
            under |= {f"{at.prefix}{key}" if key else at.path: _held_device(device) for key, device in found.items()}

    def _read_hooks(self, module: nn.Module, path: str) -> tuple[Serving, ...]:
        try:
            own = [self._as_value(hook, module, path) for hook in align_hooks(module)]
        except Exception as error:
            self._failed(f"the hook on {path or 'the model'}", error)
            return ()
        self.hooks += own
        return tuple(map(Serving, own))

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
            execution_device=_held_device(hook.execution_device),
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
                self._failed(f"the weights_map of the hook on {path or 'the model'}", error)
                self._stores[id(mapping)] = None
        return self._stores[id(mapping)]

    def _reach_of(self, module: nn.Module, path: str) -> Reach:
        """Whether this module's forward still reaches accelerate's wrapper."""
        if id(module) not in self._reach:
            try:
                self._reach[id(module)] = reaches_wrapper(module)
            except Exception as error:
                self._failed(f"the forward of {path or 'the model'}", error)
                self._reach[id(module)] = Reach.UNDECIDED
        return self._reach[id(module)]


def _held_device(device: object) -> Device | None:
    """A device of a map or a hook as it stands there; what no library puts there, as text."""
    return device if device is None or isinstance(device, (int, str, torch.device)) else str(device)
