"""take(model) -> Snapshot: everything diag wants to know of a live model, from one walk over it.

Reads attributes only: no forward, no `.to()`, nothing out of a `weights_map`. Never raises for an odd model: what can't
be read is an `Unreadable`, and what depends on it is left out. A snapshot refers to the live tensors and modules, so it
is thrown away with the question it was taken for; after the model was changed a new one has to be taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from diag.errors import NotAModelError
from diag.machine.accelerators import accelerator_name
from diag.models import adapters, hooks, ties
from diag.models.entries import Entry, Unreadable, stored_bytes
from diag.models.hooks import RESIDENT, Device, HookIndex
from diag.models.quantizers import quantizer_of

_KINDS = ("parameter", "buffer", "non_persistent_buffer", "quant_state")
_WRAPPERS = ("torch.distributed", "torch.nn.parallel", "deepspeed", "fairscale", "megatron")


@dataclass(frozen=True)
class Snapshot:
    """A model as it was when it was read. Names of a bundle's components begin with their prefix.

    `given` is what was read, `parts` are the models in it with their prefixes: one with an empty prefix, or the
    components of a pipeline. `device_map` is the model's own as it is held, under full names; empty without one.
    `modules` has every path (also the second one of a shared module), `paths` the first path of each module by its id.
    `ties` says which name follows which as declared, `accelerator` what an integer in a device map means, `wrappers`
    the classes that spread the model over processes.
    """

    given: object
    parts: tuple[tuple[str, nn.Module], ...]
    device_map: Mapping[str, Device | None]
    modules: Mapping[str, nn.Module]
    paths: Mapping[int, str]
    entries: tuple[Entry, ...]
    hooks: HookIndex
    ties: Mapping[str, str]
    accelerator: str | None
    wrappers: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def root(self) -> nn.Module:
        """The model itself; of a bundle the first component."""
        return self.parts[0][1]

    @property
    def is_bundle(self) -> bool:
        """A pipeline or a dict of modules, and not one model."""
        return self.parts[0][0] != ""

    @cached_property
    def by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def tied_groups(self) -> dict[str, int]:
        """A number for each name; names of the same tensor, and names declared tied, have the same.

        `data_ptr` is no help: it is 0 for every meta tensor. Quantization state follows no tie.
        """
        declared = {*self.ties, *self.ties.values()}
        roots = {name: self.by_name.get(ties.root_of(name, self.ties)) for name in declared}
        numbers: dict[int, int] = {}
        groups = {}
        for entry in self.entries:
            root = roots.get(entry.name) or entry
            groups[entry.name] = numbers.setdefault(id(root.tensor), len(numbers))
        return groups

    @cached_property
    def hooked(self) -> frozenset[str]:
        """The paths of modules that carry a hook of accelerate's."""
        return frozenset(hook.carrier_path for hook in self.hooks.hooks)

    @property
    def carries_adapter(self) -> bool:
        """Whether PEFT has wrapped the model or put layers of its own into it."""
        return any(map(adapters.is_of_peft, self.modules.values()))

    def once(self) -> Iterator[tuple[str, nn.Module]]:
        """Each module under its first path."""
        return ((path, self.modules[path]) for path in self.paths.values())

    def in_table_order(self) -> list[Entry]:
        """Parameters first, then buffers, unsaved buffers and quantization state, each in the order of the model."""
        return sorted(self.entries, key=lambda entry: _KINDS.index(entry.kind))

    def distinct(self) -> dict[int, Entry]:
        """Each tensor under its first name, by its id."""
        found: dict[int, Entry] = {}
        for entry in self.entries:
            found.setdefault(id(entry.tensor), entry)
        return found

    def named(self, names: Iterable[str]) -> list[Entry]:
        """The tensors of these names, as far as the model has them."""
        return [self.by_name[name] for name in names if name in self.by_name]


def take(model: object) -> Snapshot:
    """Reads a module, a pipeline (an object with `components`) or a dict of modules.

    Raises NotAModelError for anything else, and nothing for a model.
    """
    return model if isinstance(model, Snapshot) else _Walk(parts_of(model)).done(model)


def parts_of(model: object) -> tuple[tuple[str, nn.Module], ...]:
    """The modules of a model or a pipeline, each with the prefix that its names get."""
    if isinstance(model, nn.Module):
        return (("", model),)
    bundle = model if isinstance(model, Mapping) else getattr(model, "components", None)
    if isinstance(bundle, Mapping):
        parts = tuple((f"{key}.", part) for key, part in bundle.items() if isinstance(part, nn.Module))
        if parts:
            return parts
    raise NotAModelError(
        f"a {type(model).__name__} has no parameters to tabulate.",
        why="placement reads torch modules, pipelines whose `components` are modules, or dicts of modules.",
        next_step="pass the model itself, for example outcome.model.",
    )


@dataclass(slots=True)
class _Visit:
    """One module to be read: where it is, and what holds for it because of the modules around it."""

    module: nn.Module
    path: str
    name: str
    parent: _Visit | None
    put_in: bool = False
    mapped: Device | None = None
    mapped_inside: Device | None = None
    serving: tuple[hooks.Serving, ...] = ()
    execution: Device | None = None

    def is_inside(self, module: nn.Module) -> bool:
        """Whether this visit is of the module or of something inside it."""
        at: _Visit | None = self
        while at is not None and at.module is not module:
            at = at.parent
        return at is not None

    def full(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


class _Walk:
    """Collects a snapshot: reads each module under each of its paths once, parents first."""

    def __init__(self, parts: tuple[tuple[str, nn.Module], ...]) -> None:
        self._parts = parts
        self._unreadable: list[Unreadable] = []
        self._modules: dict[str, nn.Module] = {}
        self._paths: dict[int, str] = {}
        self._entries: list[Entry] = []
        self._hooks = HookIndex(self._failed)
        self._map: dict[str, Device | None] = {}
        self._inner_maps: dict[str, Device | None] = {}
        with torch._C.DisableTorchFunction():  # a tensor class, or a mode that is on, gets no say in reading attributes
            for prefix, part in parts:
                self._walk(_Visit(part, prefix.rstrip("."), "", None))

    def done(self, given: object) -> Snapshot:
        kinds = (entry.device.type for entry in self._entries)
        return Snapshot(
            given=given,
            parts=self._parts,
            device_map=self._map,
            modules=self._modules,
            paths=self._paths,
            entries=tuple(self._entries),
            hooks=self._hooks,
            ties=self._ties(),
            accelerator=next((kind for kind in kinds if kind not in ("cpu", "meta")), None) or accelerator_name(),
            wrappers=self._wrappers(),
            unreadable=tuple(self._unreadable),
        )

    def _failed(self, what: str, error: Exception) -> None:
        self._unreadable.append(Unreadable.because(what, error))

    def _walk(self, start: _Visit) -> None:
        todo = [start]
        while todo:
            at = todo.pop()
            try:
                self._enter(at)
            except Exception as error:
                self._failed(f"the module {at.path or type(at.module).__name__}", error)
            try:
                todo += reversed([*self._children(at)])
            except Exception as error:
                self._failed(f"what is inside {at.path or type(at.module).__name__}", error)

    def _children(self, at: _Visit) -> Iterator[_Visit]:
        """The modules below; one that holds this module itself is left out."""
        for name, child in at.module._modules.items():
            if child is not None and not (child._modules and at.is_inside(child)):
                yield _Visit(child, at.full(name), name, at, adapters.is_put_in(name, at.module, at.put_in))

    def _enter(self, at: _Visit) -> None:
        module, parent = at.module, at.parent
        self._modules[at.path] = module
        self._paths.setdefault(id(module), at.path)
        if parent is None or "hf_device_map" in module.__dict__:
            self._read_map(at)
        at.mapped = self._map.get(at.path, parent.mapped if parent else None)
        at.mapped_inside = self._inner_maps.get(at.path, parent.mapped_inside if parent else None)
        at.serving = self._hooks.enter(module, at.path, at.name, parent.serving if parent else ())
        at.execution = hooks.execution_device(at.serving) if at.serving else None
        put_in = adapters.names_put_in(module, at.put_in)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self._add(at, name, "parameter", parameter, name in put_in)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                saved = name not in module._non_persistent_buffers_set
                self._add(at, name, "buffer" if saved else "non_persistent_buffer", buffer, name in put_in)

    def _read_map(self, at: _Visit) -> None:
        """The device map on a module, under full names: the model's own, or one of a model inside, as below PEFT's."""
        own = at.parent is None
        try:
            found = getattr(at.module, "hf_device_map", None) if own else at.module.__dict__.get("hf_device_map")
        except Exception as error:
            self._failed(f"hf_device_map of {type(at.module).__name__}", error)
            return
        if isinstance(found, Mapping):
            under = self._map if own else self._inner_maps
            under |= {at.full(key) if key else at.path: hooks.held_device(device) for key, device in found.items()}

    def _add(self, at: _Visit, name: str, kind: str, tensor: torch.Tensor, put_in: bool) -> None:
        """One tensor, and the quantization state that belongs to it."""
        try:
            quantizer = quantizer_of(tensor)
            if quantizer is None:
                self._entries.append(self._entry(at, name, kind, tensor, "none", None, put_in))
                return
            quantization, numel = quantizer.name_of(tensor), quantizer.logical_numel(tensor)
            self._entries.append(self._entry(at, name, kind, tensor, quantization, numel, put_in))
            for key, state in quantizer.state_of(at.module, name, tensor) if kind == "parameter" else ():
                self._entries.append(self._entry(at, key, "quant_state", state, quantization, None, put_in))
        except Exception as error:
            self._failed(at.full(name), error)

    def _entry(
        self, at: _Visit, name: str, kind: str, tensor: torch.Tensor, quantization: str, numel: int | None, put_in: bool
    ) -> Entry:
        full, is_meta, serving = at.full(name), tensor.is_meta, at.serving
        try:
            shape: tuple[int, ...] | None = tuple(tensor.shape)
            nbytes = stored_bytes(tensor)
        except Exception as error:
            self._failed(f"the size of {full}", error)
            shape, nbytes = None, 0
        return Entry(
            full,
            kind,
            name,
            at.path,
            at.module,
            tensor,
            shape,
            tensor.dtype,
            tensor.device,
            is_meta,
            math.prod(shape or ()) if numel is None else numel,
            nbytes,
            quantization,
            hooks.backing(serving, name, kind) if is_meta else RESIDENT,
            bool(serving) and not is_meta and hooks.is_sought_in_vain(serving, name, kind),
            self._map.get(full, at.mapped) if self._map else None,
            self._inner_maps.get(full, at.mapped_inside) if self._inner_maps else None,
            at.execution,
            put_in,
        )

    def _ties(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for prefix, part in self._parts:
            paths = {key: path.removeprefix(prefix) for key, path in self._paths.items()} if prefix else self._paths
            names = (e.name.removeprefix(prefix) for e in self._entries if e.name.startswith(prefix))
            try:
                declared = ties.declared_ties(part, paths, names)
            except Exception as error:
                self._failed(f"what {type(part).__name__} declares tied", error)
                continue
            found |= {f"{prefix}{follower}": f"{prefix}{source}" for follower, source in declared.items()}
        return found

    def _wrappers(self) -> tuple[str, ...]:
        """Classes of modules and tensors that spread a model over processes."""
        classes = {type(module) for module in self._modules.values()} | {type(entry.tensor) for entry in self._entries}
        return tuple(sorted(kind.__name__ for kind in classes if kind.__module__.startswith(_WRAPPERS)))
