"""Where reading the checkpoint again can't help, and what a person does then: the evidence of a finding, in a fix.

A model whose adapter is not in the files, and tensors that no file holds: loading "the same" would give another model,
or the same fault.
"""

from __future__ import annotations

from typing import Any

from diag.diagnosis import causes
from diag.errors import DiagError
from diag.models.adapters import carries_adapter, is_adapter_part
from diag.values.finding import Finding, Fix
from diag.values.spec import LoadSpec

LIBRARY_MADE = "The caller's inputs are real: generate() made ids of its own on model.device, which is meta here."

_DEAD = "The adapter's outer matrices are zero, as they are when an adapter is made:"
_LACKING = "The checkpoint's files have no such tensors, so reading them again changes nothing:"
_UNKNOWN_ADAPTER = "The model carries an adapter, and nothing in the model says where its files are:"
_WITH_ADAPTER = "diag.fix(found, spec=diag.LoadSpec('<base>', device_map='cpu', adapter='<folder of the adapter>'))"


def by_hand(finding: Finding, model: Any, spec: LoadSpec | None) -> Fix:
    """The last fix of every finding: what a person does, and why no load can do it where that is so."""
    entry = causes.get(finding.cause)
    if _is_dead_adapter(finding):
        return Fix("by-hand", f"{_DEAD} it was saved before it was trained, or none of its file's names fitted when it "
                   "was loaded (PEFT then warns of missing adapter keys). Load the adapter that was trained, or rename "
                   "the keys of its file; the base needs nothing.")  # fmt: skip
    lacking = _lacking(finding, model, spec)
    if lacking:
        return _complete_the_files(finding, lacking, model, spec)
    if carries_adapter(model) and (spec is None or spec.adapter is None):
        return _put_the_adapter_on_again(finding)
    if LIBRARY_MADE in finding.because:
        return Fix("by-hand", "Keep the model's first parameters off the CPU's and the disk's part of the map, so that "
                   "model.device is real (device_map='auto' with more memory does), or bring the weights in: "
                   "diag.materialise(model). Moving the inputs changes nothing.")  # fmt: skip
    return Fix("by-hand", entry.fix, avoid=entry.avoid[0] if entry.avoid else "")


def allows_reload(last: Fix, spec: LoadSpec | None) -> bool:
    """Whether loading this spec can help, going by the finding's last fix; other files than those judged may."""
    if last.because.startswith(_DEAD):
        return False
    if last.because.startswith(_LACKING):
        return spec is not None and repr(spec.model) not in last.because
    return not last.because.startswith(_UNKNOWN_ADAPTER) or (spec is not None and spec.adapter is not None)


def allows_refill(finding: Finding, last: Fix) -> bool:
    """Whether the base's files can hold every tensor of the finding."""
    return not last.because.startswith((_DEAD, _LACKING)) and not any(map(is_adapter_part, finding.tensors))


def _is_dead_adapter(finding: Finding) -> bool:
    parts = all(is_adapter_part(name) for name in finding.tensors)
    return finding.cause == "uninitialised-values" and bool(finding.tensors) and parts


def _put_the_adapter_on_again(finding: Finding) -> Fix:
    if any(map(is_adapter_part, finding.tensors)) and finding.cause == "never-materialised":
        how = ("load it with its weights, PeftModel.from_pretrained(base, '<folder>'); an adapter that is new needs "
               "get_peft_model(base, config) without low_cpu_mem_usage, which leaves it on meta.")  # fmt: skip
    else:
        how = f"{causes.get(finding.cause).fix} Then put the adapter on again."
    return Fix("by-hand", f"{_UNKNOWN_ADAPTER} {how} With its folder diag does both.", _WITH_ADAPTER)


def _complete_the_files(finding: Finding, lacking: list[str], model: Any, spec: LoadSpec | None) -> Fix:
    from diag.loading.checkpoint.stored import checkpoint_name

    left = _leftover(model, spec)
    held = f"{len(lacking)} of them" if len(lacking) < len(finding.tensors) else "any of them"
    where = f"{checkpoint_name(model, spec)!r} does not hold {held}."
    rename = (
        f" It holds {len(left)} that the model has no place for, such as {left[0]}: rename these keys." if left else ""
    )
    disk = " Until then keep these modules off disk in the map." if finding.cause == "missing-weight-data" else ""
    return Fix("by-hand", f"{_LACKING} {where}{rename} Get the complete checkpoint; a head that is new has to be "
               f"trained.{disk}")  # fmt: skip


def _lacking(finding: Finding, model: Any, spec: LoadSpec | None) -> list[str]:
    """The finding's saved tensors that are in none of the local files; empty where that can't be told."""
    if model is None or finding.cause not in ("uninitialised-values", "missing-weight-data"):
        return []
    from diag.loading.checkpoint.stored import plain_name
    from diag.models.tensors import entries, tie_sources

    files = _files(model, spec)
    tied = tie_sources(model) if files else {}
    saved = {e.name for e in entries(model) if e.kind in ("parameter", "buffer")} if files else set()
    return [name for name in finding.tensors if name in saved
            and not {plain_name(name), plain_name(tied.get(name, name))} & files]  # fmt: skip


def _leftover(model: Any, spec: LoadSpec | None) -> list[str]:
    from diag.loading.checkpoint.stored import plain_name
    from diag.models.tensors import entries

    return sorted(_files(model, spec) - {plain_name(e.name) for e in entries(model)})


def _files(model: Any, spec: LoadSpec | None) -> set[str]:
    """The model's names for what its local files hold; headers are read, nothing is downloaded."""
    from diag.diagnosis.evidence.values import has_local_files
    from diag.loading.checkpoint.stored import sources

    try:
        return set(sources(model, spec)) if has_local_files(model, spec) else set()
    except (DiagError, OSError, ValueError, RuntimeError, AttributeError):
        return set()
