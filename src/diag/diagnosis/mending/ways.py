"""The ways out that several causes share, as values: repairs in place, loads of another kind, the last advice.

Standard library only, since every file of `causes/` uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from diag.values.finding import Finding, Fix, Requirement
from diag.values.spec import LoadSpec
from diag.values.units import format_size

if TYPE_CHECKING:
    from diag.diagnosis.mending.situation import Situation

TO_EMPTY = "to_empty() silences the error and leaves uninitialised memory."
FIX_CALL = "diag.fix(diag.diagnose(model))"


def in_place(repair: str, because: str, code: str = FIX_CALL, *, nbytes: int | None = None, avoid: str = "") -> Fix:
    """A repair of the model in memory that `diag.fix` knows by name; nothing is written to files."""
    return Fix("in-place", because=because, code=code, nbytes=nbytes, avoid=avoid, repair=repair)


def bring_in(situation: Situation) -> tuple[Fix, ...]:
    """For a model that is healthy and offloaded: nothing is offloaded any more."""
    if not situation.has_model:
        return ()
    because = "brings the offloaded weights in and takes the hooks off, all or nothing."
    nbytes = situation.offloaded_bytes
    return (in_place("materialise", because, "diag.materialise(model)", nbytes=nbytes, avoid=TO_EMPTY),)


def refill(finding: Finding, situation: Situation) -> tuple[Fix, ...]:
    """The finding's tensors from the files, where the files can hold all of them."""
    from_files = situation.has_model and finding.tensors and not situation.lacking(finding)
    if not from_files or situation.names_adapter_part(finding.tensors):
        return ()
    because = "reads these tensors from the checkpoint's files into the model."
    return (in_place("refill", because, nbytes=situation.nbytes_of(finding.tensors), avoid=TO_EMPTY),)


def reload_alike(situation: Situation) -> tuple[Fix, ...]:
    why = "the same load, done as intended, with the values of these files and nothing that was put in later"
    return (reload_as(situation.spec, why),) if situation.spec else ()


def reload_with_map(situation: Situation, device_map: str, why: str) -> tuple[Fix, ...]:
    return (reload_as(situation.spec.replace(device_map=device_map), why),) if situation.spec else ()


def reload_unquantized(situation: Situation) -> tuple[Fix, ...]:
    if situation.spec is None:
        return ()
    spec = situation.spec.replace(device_map="auto", quantization="none")
    return (reload_as(spec, "unquantized weights can be offloaded when the device is full"),)


def reload_as(spec: LoadSpec, why: str) -> Fix:
    """The fix that loads again with this spec; an adapter's base is kept off the disk."""
    if spec.adapter is not None and may_use_disk(spec):
        spec = spec.replace(device_map="cpu")
        why += "; without disk, since PEFT would write over the base's files there"
    size = _checkpoint_bytes(spec)
    memory = "" if size is None else f" It reads {format_size(size)} of weights again."
    because = f"loads again: {why}.{memory}"
    return Fix("reload", because=because, code=f"diag.load(diag.{spec!r})", spec=spec, nbytes=size, avoid=TO_EMPTY)


def may_use_disk(spec: LoadSpec) -> bool:
    """Whether this load may leave weights on disk: it says so, or it decides by the free memory."""
    if isinstance(spec.device_map, Mapping):
        return "disk" in map(str, spec.device_map.values())
    return spec.device_map not in ("none", "cpu", "single")


def complete_the_files(finding: Finding, situation: Situation, *, meanwhile: str = "") -> tuple[Fix, ...]:
    """What to do where no file holds tensors of the finding: reading them again would change nothing."""
    lacking = situation.lacking(finding)
    if not lacking:
        return ()
    held = f"{len(lacking)} of them" if len(lacking) < len(finding.tensors) else "any of them"
    unused = situation.unused_keys
    rename = (
        f" It holds {len(unused)} that the model has no place for, such as {unused[0]}: rename these keys."
        if unused
        else ""
    )
    because = (
        "The checkpoint's files have no such tensors, so reading them again changes nothing: "
        f"{situation.checkpoint!r} does not hold {held}.{rename} Get the complete checkpoint; a head that is new has "
        f"to be trained.{meanwhile}"
    )
    return (Fix("edit", requires=(Requirement("complete-files", situation.checkpoint),), because=because),)


def put_the_adapter_on_again(how: str) -> Fix:
    """For a model with an adapter whose files nothing in the model names: a load without them is another model."""
    because = (
        "The model carries an adapter, and nothing in the model says where its files are: "
        f"{how} With its folder diag does both."
    )
    code = "diag.fix(found, spec=diag.LoadSpec('<base>', device_map='cpu', adapter='<folder of the adapter>'))"
    return Fix("edit", requires=(Requirement("adapter-folder"),), because=because, code=code)


def _checkpoint_bytes(spec: LoadSpec) -> int | None:
    if not os.path.isdir(spec.model):
        return None
    return sum(f.stat().st_size for f in os.scandir(spec.model) if f.name.endswith((".safetensors", ".bin"))) or None
