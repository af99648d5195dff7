"""verify_weights(): which tensors of a model differ from its checkpoint's files. Streams, so memory stays bounded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from diag.loading.checkpoint.stored import Source, source_of, sources
from diag.models.added import added_tensors
from diag.models.hooks import FORWARD_BYPASSED, HookIndex
from diag.models.tensors import Entry, entries, tie_sources

VERIFY_COLUMNS = ("name", "status", "key", "file", "shape", "device", "max_abs_diff", "share_different")
_CHUNK = 4_194_304  # elements compared at a time: 16 MiB in float32
_PACKED_ALIKE = 0.9  # correlation of a dequantized weight with its file; honest nf4 is above 0.98, int8 above 0.999


def verify_weights(model: Any, checkpoint: Any = None):
    """One row per tensor whose values differ from the checkpoint's files; an empty table means all agree.

    `checkpoint` is a folder, a sample, a hub id that is cached, or a LoadSpec; None asks the model where it came
    from. `status` is `differs`, `not finite`, `shape`, `no data` (meta and nobody holds it), `not in the files`, or
    `unreadable`. `max_abs_diff` is in the tensor's own units, `share_different` a share of its elements. Packed
    weights are compared dequantized, by correlation. Reads some megabytes of the files at a time, of stacked experts
    at least one expert; an offloaded or otherwise converted tensor is read whole. Leaves the model as it is. Raises
    CouldNotJudgeError when the files are not to be found.
    """
    import pandas as pd

    rows = [row for row in _verified(model, sources(model, checkpoint)) if row is not None]
    return pd.DataFrame(rows, columns=list(VERIFY_COLUMNS))


def _verified(model: Any, files: Mapping[str, Source]) -> Iterator[tuple | None]:
    index = HookIndex(model)
    tied = tie_sources(model)
    added, found = added_tensors(model), list(entries(model))
    by_object = {id(e.tensor): s for e in found if (s := source_of(e.name, files, tied)) is not None}
    for entry in found:
        if entry.kind in ("non_persistent_buffer", "quant_state") or (entry.name in added and not entry.tensor.is_meta):
            continue
        yield _row(entry, source_of(entry.name, files, tied) or by_object.get(id(entry.tensor)), index)


def _row(entry: Entry, stored: Source | None, index: HookIndex) -> tuple | None:
    def row(status: str, diff: float | None = None, share: float | None = None) -> tuple:
        key, file = (stored.parts[0].key, stored.parts[0].file.name) if stored else ("", "")
        return (entry.name, status, key, file, tuple(entry.tensor.shape), str(entry.tensor.device), diff, share)

    try:
        value = held_value(entry, index)
    except (OSError, KeyError, RuntimeError):
        return row("unreadable")
    if value is None:
        return row("no data")
    if stored is None:
        return None if entry.kind == "buffer" else row("not in the files")
    if is_packed(entry.tensor):
        alike = _correlation(_dequantized(entry), stored)
        return None if alike is None or alike > _PACKED_ALIKE else row("differs", None, 1.0 - alike)
    there = _with_shape(stored)
    if tuple(value.shape) != there.shape:
        return row("shape")
    diff, share, finite = _compare(value, there)
    if not finite:
        return row("not finite", None, share)
    return row("differs", diff, share) if share else None


def held_value(entry: Entry, index: HookIndex, also_bypassed: bool = False) -> torch.Tensor | None:
    """The tensor's data wherever it is: here, in the hook's store, or None where nobody has it.

    `also_bypassed` takes it from the store of a hook that the module's forward does not reach any more.
    """
    if not entry.tensor.is_meta:
        return entry.tensor.detach()
    backing = index.backing(entry.module_path, entry.local_name, entry.kind)
    if backing.kind != "offloaded" and not (also_bypassed and backing.reason == FORWARD_BYPASSED):
        return None
    for serving in index.serving(entry.module_path):
        if serving.hook.offload and serving.hook.weights_map is not None:
            with contextlib.suppress(KeyError):
                return serving.hook.weights_map[serving.local_prefix + entry.local_name]
    return None


def is_packed(tensor: torch.Tensor) -> bool:
    return type(tensor).__name__ in ("Params4bit", "Int8Params") and tensor.dtype in (torch.uint8, torch.int8)


def _dequantized(entry: Entry) -> torch.Tensor | None:
    import bitsandbytes.functional as bnb

    tensor: Any = entry.tensor
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        return bnb.dequantize_4bit(tensor.data, state)
    scales = getattr(tensor, "SCB", None)
    if scales is None:
        scales = getattr(getattr(entry.owner, "state", None), "SCB", None)
    return None if scales is None else tensor.data.float() * (scales.float()[:, None] / 127.0)


def _correlation(value: torch.Tensor | None, stored: Source) -> float | None:
    """How alike two weights are, 1 for equal; bitsandbytes stores the weight of a Conv1D transposed."""
    if value is None:
        return None
    here, there = value.float().cpu(), stored.read().float()
    alike = [_cosine(here, other) for other in (there, there.t()) if here.dim() == 2 and here.shape == other.shape]
    return max(alike, default=None)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def _with_shape(stored: Source) -> Any:
    """A source that knows its shape; stacked tensors stay in the files, other converted ones are built here."""
    if stored.shape is not None:
        return stored
    return _Built(stored.read()) if stored.stacked is None else _Stacked(stored, stored.stacked)


class _Built:
    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self.shape = tensor, tuple(tensor.shape)

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self._tensor[start:stop] if self.shape else self._tensor


class _Stacked:
    def __init__(self, stored: Source, rows: int) -> None:
        self.read, self.shape = stored.read, (rows, *stored.read(0, 1).shape[1:])


def _compare(value: torch.Tensor, stored: Any) -> tuple[float, float, bool]:
    """Largest difference, share of different elements, and whether all are finite; by slices of rows."""
    if not stored.shape:
        here, there = value.float().cpu(), stored.read().to(value.dtype).float()
        return float((here - there).abs()), float(not torch.equal(here, there)), bool(torch.isfinite(here))
    rows = max(1, _CHUNK // max(1, value[0].numel()))
    largest, different, finite = 0.0, 0, True
    for start in range(0, stored.shape[0], rows):
        here = value[start : start + rows].cpu()
        there = stored.read(start, start + rows).to(here.dtype)
        unequal = here != there
        different += int(unequal.sum())
        if unequal.any():
            gap = (here.float() - there.float()).abs()
            finite = finite and bool(torch.isfinite(gap).all())
            largest = max(largest, float(gap.nan_to_num(0.0, posinf=0.0).max()))
    return largest, different / max(1, value.numel()), finite
