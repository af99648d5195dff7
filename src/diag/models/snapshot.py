"""take(model) -> Snapshot: everything diag wants to know of a live model, from one walk over it.

Reads attributes only: no forward, no `.to()`, nothing out of a `weights_map`. Never raises for an odd model: what can't
be read is an `Unreadable`, and what depends on it is left out. A snapshot refers to the live tensors and modules, so it
is thrown away with the question it was taken for; after the model was changed a new one has to be taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from diag.machine.accelerators import accelerator_name
from diag.models import adapters
from diag.models.backing import Device
from diag.models.entries import Entry, TensorReader, Unreadable
from diag.models.hooks import HookIndex
from diag.models.ties import declared_ties, tied_groups
from diag.models.walk import OnFailure, parts_of, walk

T = TypeVar("T")
_KINDS = ("parameter", "buffer", "non_persistent_buffer", "quant_state")
_WRAPPERS = ("torch.distributed", "torch.nn.parallel", "deepspeed", "fairscale", "megatron")


@dataclass(frozen=True)
class Snapshot:
    """A model as it was when it was read. Names of a bundle's components begin with their prefix.

    `given` is what was read; `parts` are the models in it with their prefixes: one with an empty prefix, or of a bundle
    (a pipeline, a dict of modules) its components. `root` is the model itself, of a bundle the first component. `device_map` is the model's own as it is held, under full names; empty without one.
    `modules` has every path (also the second one of a shared module), `named_modules` each module under its first path,
    `paths` that path by the module's id. `entries` are in the order of the model, `in_table_order` has parameters
    first, `distinct` each tensor under its first name, by its id. Names of one tensor, and names declared tied, have
    the same number in `tied_groups`; `ties` says which name follows which as declared. `accelerator` is what an integer
    in a device map means, `wrappers` are the classes that spread the model over processes, `hooked` the paths of
    modules that carry a hook of accelerate's. `carries_adapter`: PEFT wrapped the model or put layers into it.
    """

    given: object
    parts: tuple[tuple[str, nn.Module], ...]
    root: nn.Module
    is_bundle: bool
    device_map: Mapping[str, Device | None]
    modules: Mapping[str, nn.Module]
    named_modules: tuple[tuple[str, nn.Module], ...]
    paths: Mapping[int, str]
    entries: tuple[Entry, ...]
    in_table_order: tuple[Entry, ...]
    by_name: Mapping[str, Entry]
    distinct: Mapping[int, Entry]
    hooks: HookIndex
    hooked: frozenset[str]
    ties: Mapping[str, str]
    tied_groups: Mapping[str, int]
    carries_adapter: bool
    accelerator: str | None
    wrappers: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]

    def named(self, names: Iterable[str]) -> list[Entry]:
        """The tensors of these names, as far as the model has them."""
        return [self.by_name[name] for name in names if name in self.by_name]


def take(model: object) -> Snapshot:
    """Reads a module, a pipeline (an object with `components`) or a dict of modules.

    Raises NotAModelError for anything else, and nothing for a model.
    """
    if isinstance(model, Snapshot):
        return model
    parts = parts_of(model)
    unreadable: list[Unreadable] = []

    def failed(what: str, error: Exception) -> None:
        unreadable.append(Unreadable.because(what, error))

    with torch._C.DisableTorchFunction():  # a tensor class, or a mode that is on, gets no say in reading attributes
        visits = walk(parts, failed)
        hooks = HookIndex(visits, failed)
        carries_adapter = adapters.mark_what_was_put_in(visits, failed)
        entries = tuple(TensorReader(hooks, failed).read(visits))
    first = _first_of_each((id(at.module), at) for at in visits)
    paths = {key: at.path for key, at in first.items()}
    ties = _ties(parts, paths, entries, failed)
    kinds = (entry.device.type for entry in entries)
    return Snapshot(
        given=model,
        parts=parts,
        root=parts[0][1],
        is_bundle=parts[0][0] != "",
        device_map=hooks.device_map,
        modules={at.path: at.module for at in visits},
        named_modules=tuple((at.path, at.module) for at in first.values()),
        paths=paths,
        entries=entries,
        in_table_order=tuple(entry for kind in _KINDS for entry in entries if entry.kind == kind),
        by_name={entry.name: entry for entry in entries},
        distinct=_first_of_each((id(entry.tensor), entry) for entry in entries),
        hooks=hooks,
        hooked=hooks.hooked,
        ties=ties,
        tied_groups=tied_groups(entries, ties),
        carries_adapter=carries_adapter,
        accelerator=next((kind for kind in kinds if kind not in ("cpu", "meta")), None) or accelerator_name(),
        wrappers=_wrappers({type(at.module) for at in visits} | {type(entry.tensor) for entry in entries}),
        unreadable=tuple(unreadable),
    )


def _first_of_each(pairs: Iterable[tuple[int, T]]) -> dict[int, T]:
    found: dict[int, T] = {}
    for key, one in pairs:
        found.setdefault(key, one)
    return found


def _wrappers(classes: Iterable[type]) -> tuple[str, ...]:
    return tuple(sorted(kind.__name__ for kind in classes if kind.__module__.startswith(_WRAPPERS)))


def _ties(
    parts: tuple[tuple[str, nn.Module], ...], paths: Mapping[int, str], entries: Iterable[Entry], failed: OnFailure
) -> dict[str, str]:
    """Which name follows which, under full names."""
    found: dict[str, str] = {}
    for prefix, part in parts:
        own = {key: path.removeprefix(prefix) for key, path in paths.items()} if prefix else paths
        names = (e.name.removeprefix(prefix) for e in entries if e.name.startswith(prefix))
        try:
            declared = declared_ties(part, own, names)
        except Exception as error:
            failed(f"what {type(part).__name__} declares tied", error)
            continue
        found |= {f"{prefix}{follower}": f"{prefix}{source}" for follower, source in declared.items()}
    return found
