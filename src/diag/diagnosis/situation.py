"""What fixes need to know of the model, its spec and its files, and the ways out that several causes share.

Everything is looked up when a cause asks for it: every file of `causes/` imports this one, so it loads no library.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from diag.values.finding import Finding, Fix, Requirement
from diag.values.spec import LoadSpec
from diag.values.units import format_size

if TYPE_CHECKING:
    from diag.models.snapshot import Snapshot

TO_EMPTY = "to_empty() silences the error and leaves uninitialised memory."
_FIX_CALL = "diag.fix(diag.diagnose(model))"


def in_place(repair: str, because: str, code: str = _FIX_CALL, *, nbytes: int | None = None, avoid: str = "") -> Fix:
    """A repair of the model in memory that `diag.fix` knows by name; nothing is written to files."""
    return Fix("in-place", because=because, code=code, nbytes=nbytes, avoid=avoid, repair=repair)


def put_the_adapter_on_again(how: str) -> Fix:
    """For a model with an adapter whose files nothing in the model names: a load without them is another model."""
    because = (
        "The model carries an adapter, and nothing in the model says where its files are: "
        f"{how} With its folder diag does both."
    )
    code = "diag.fix(found, spec=diag.LoadSpec('<base>', device_map='cpu', adapter='<folder of the adapter>'))"
    return Fix("edit", requires=(Requirement("adapter-folder"),), because=because, code=code)


def reload_as(spec: LoadSpec, why: str) -> Fix:
    """The fix that loads again with this spec; an adapter's base is kept off the disk."""
    if spec.adapter is not None and _may_use_disk(spec):
        spec = spec.replace(device_map="cpu")
        why += "; without disk, since PEFT would write over the base's files there"
    size = _checkpoint_bytes(spec)
    memory = "" if size is None else f" It reads {format_size(size)} of weights again."
    because = f"loads again: {why}.{memory}"
    return Fix("reload", because=because, code=f"diag.load(diag.{spec!r})", spec=spec, nbytes=size, avoid=TO_EMPTY)


class Situation:
    """A model (or none) and the spec it can be loaded with again; reads its snapshot, and headers of local files."""

    def __init__(self, snapshot: Snapshot | None = None, spec: LoadSpec | None = None) -> None:
        self._snapshot = snapshot
        self._whole = None if snapshot is None or snapshot.is_bundle else snapshot
        self._by_name = {} if self._whole is None else self._whole.by_name
        self.spec = spec or self._own_spec()

    # --- ways out, as values; empty where one does not apply ---

    def bring_in(self) -> tuple[Fix, ...]:
        """For a model that is healthy and offloaded: nothing is offloaded any more."""
        if not self.has_model:
            return ()
        because = "brings the offloaded weights in and takes the hooks off, all or nothing."
        nbytes = self.offloaded_bytes
        return (in_place("materialise", because, "diag.materialise(model)", nbytes=nbytes, avoid=TO_EMPTY),)

    def refill(self, finding: Finding) -> tuple[Fix, ...]:
        """The finding's tensors from the base's files, which hold nothing of an adapter."""
        names = finding.tensors
        if not self.has_model or not names or self.names_adapter_part(names):
            return ()
        because = "reads these tensors from the checkpoint's files into the model."
        return (in_place("refill", because, nbytes=self.nbytes_of(names), avoid=TO_EMPTY),)

    def reload_alike(self) -> tuple[Fix, ...]:
        why = "the same load, done as intended, with the values of these files and nothing that was put in later"
        return (reload_as(self.spec, why),) if self.spec else ()

    def reload_with_map(self, device_map: str, why: str) -> tuple[Fix, ...]:
        return (reload_as(self.spec.replace(device_map=device_map), why),) if self.spec else ()

    def reload_unquantized(self) -> tuple[Fix, ...]:
        if self.spec is None:
            return ()
        spec = self.spec.replace(device_map="auto", quantization="none")
        return (reload_as(spec, "unquantized weights can be offloaded when the device is full"),)

    def complete_the_files(self, finding: Finding, *, meanwhile: str = "") -> tuple[Fix, ...]:
        """What to do where no file holds tensors of the finding: reading them again would change nothing."""
        lacking = self.lacking(finding)
        if not lacking:
            return ()
        held = f"{len(lacking)} of them" if len(lacking) < len(finding.tensors) else "any of them"
        unused, rename = self.unused_keys, ""
        if unused:
            rename = f" It holds {len(unused)} that the model has no place for, such as {unused[0]}: rename these keys."
        because = (
            "The checkpoint's files have no such tensors, so reading them again changes nothing: "
            f"{self.checkpoint!r} does not hold {held}.{rename} Get the complete checkpoint; a head that is new has "
            f"to be trained.{meanwhile}"
        )
        return (Fix("edit", requires=(Requirement("complete-files", self.checkpoint),), because=because),)

    # --- the model ---

    @property
    def has_model(self) -> bool:
        return self._snapshot is not None

    @property
    def is_whole_model(self) -> bool:
        """A model, and not a pipeline's parts."""
        return self._whole is not None

    @cached_property
    def adapter_is_unknown(self) -> bool:
        """The model carries an adapter whose files the spec does not name."""
        carries_adapter = self._whole is not None and self._whole.carries_adapter
        return carries_adapter and (self.spec is None or self.spec.adapter is None)

    @property
    def is_hooked(self) -> bool:
        """Whether a module carries a hook of accelerate's, of any kind; a pipeline's parts may."""
        if self._whole is None:
            return self.has_model
        return any("_hf_hook" in vars(module) for module in self._whole.modules.values())

    @property
    def has_align_hooks(self) -> bool:
        """Whether a module carries a hook that moves inputs and weights."""
        return self._whole is not None and bool(self._whole.hooked)

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """Where tensors of the model are, `meta` included."""
        return tuple(sorted({str(e.device) for e in self._by_name.values() if e.kind != "quant_state"}))

    @cached_property
    def input_device(self) -> str:
        from diag.models.devices import input_device

        return "" if self._snapshot is None else str(input_device(self._snapshot))

    @cached_property
    def offloaded_bytes(self) -> int | None:
        if self._whole is None:
            return None
        return sum(e.nbytes for e in self._whole.distinct.values() if e.kind == "parameter" and e.is_meta)

    def nbytes_of(self, names: Iterable[str]) -> int:
        return sum(self._by_name[name].nbytes for name in names if name in self._by_name)

    def are_here(self, names: Iterable[str]) -> bool:
        """All these tensors exist and are not on meta."""
        return all(name in self._by_name and not self._by_name[name].is_meta for name in names)

    def are_unsaved_buffers(self, names: Iterable[str]) -> bool:
        return all(name in self._by_name and self._by_name[name].kind == "non_persistent_buffer" for name in names)

    def are_one_tensor(self, names: Iterable[str]) -> bool:
        """Whether the names share their tensor already, so that tying them again changes nothing."""
        return len({id(self._by_name[name].tensor) for name in names if name in self._by_name}) == 1

    def names_adapter_part(self, names: Iterable[str]) -> bool:
        from diag.models.adapters import is_adapter_part

        return any(map(is_adapter_part, names))

    # --- the checkpoint's files ---

    @cached_property
    def checkpoint(self) -> str:
        from diag.loading.origin import checkpoint_name

        return checkpoint_name(None if self._snapshot is None else self._snapshot.root, self.spec)

    def lacking(self, finding: Finding) -> list[str]:
        """The finding's saved tensors that are in none of the local files; empty where that can't be told."""
        from diag.loading.checkpoint.stored import plain_name

        if not self._stored or self._whole is None:
            return []
        tied = self._whole.ties
        saved = (n for n in finding.tensors if n in self._by_name and self._by_name[n].kind in ("parameter", "buffer"))
        return [n for n in saved if not {plain_name(n), plain_name(tied.get(n, n))} & self._stored]

    @property
    def unused_keys(self) -> list[str]:
        """What the files hold and the model has no place for."""
        from diag.loading.checkpoint.stored import plain_name

        return sorted(self._stored - {plain_name(name) for name in self._by_name})

    @cached_property
    def _stored(self) -> set[str]:
        """The model's names for what its local files hold; headers are read, nothing is downloaded."""
        from diag.loading.checkpoint.stored import readable_sources
        from diag.loading.origin import files_on_this_machine

        if self._whole is None:
            return set()
        return set(readable_sources(files_on_this_machine(self._whole.root, self.spec)[1], self._whole))

    def _own_spec(self) -> LoadSpec | None:
        """The spec to load a model from a local folder again with; a config of its own may be at fault, so by name."""
        if self._whole is None:
            return None
        from diag.loading.origin import spec_for
        from diag.models.quantizers import asked_for

        try:
            spec, asked = spec_for(self._whole.root, self._whole.carries_adapter), asked_for(self._whole.root)
        except Exception:  # a config that can't be read
            return None
        named = spec is not None and asked != "none" and spec.quantization != "as-stored"
        return spec.replace(quantization=asked) if named and spec else spec


def _may_use_disk(spec: LoadSpec) -> bool:
    """Whether this load may leave weights on disk: it says so, or it decides by the free memory."""
    if isinstance(spec.device_map, Mapping):
        return "disk" in map(str, spec.device_map.values())
    return spec.device_map not in ("none", "cpu", "single")


def _checkpoint_bytes(spec: LoadSpec) -> int | None:
    if not os.path.isdir(spec.model):
        return None
    return sum(f.stat().st_size for f in os.scandir(spec.model) if f.name.endswith((".safetensors", ".bin"))) or None
