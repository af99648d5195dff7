"""verify_weights(): which tensors of a model differ from its checkpoint's files. Streams, so memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from diag.loading.checkpoint.stored import Source, sources, sources_of
from diag.loading.origin import Checkpointed
from diag.models.backing import Absence
from diag.models.entries import Entry
from diag.models.quantizers import quantizer_of
from diag.models.snapshot import Snapshot, take

if TYPE_CHECKING:
    import pandas as pd

VERIFY_COLUMNS = ("name", "status", "key", "file", "shape", "device", "max_abs_diff", "share_different")
_CHUNK = 4_194_304  # elements compared at a time: 16 MiB in float32
_Read = Callable[..., torch.Tensor]
_Row = tuple[object, ...]  # in the order of VERIFY_COLUMNS
_PACKED_ALIKE = 0.9  # correlation of a dequantized weight with its file; honest nf4 is above 0.98, int8 above 0.999


def verify_weights(model: nn.Module | Snapshot, checkpoint: Checkpointed = None) -> pd.DataFrame:
    """One row per tensor whose values differ from the checkpoint's files; an empty table means all agree.

    `checkpoint` is a folder, a sample, a hub id that is cached, or a LoadSpec; None asks the model where it came
    from. `status` is `differs`, `not finite`, `shape`, `no data` (meta and nobody holds it), `not in the files`, or
    `unreadable`. `max_abs_diff` is in the tensor's own units, `share_different` a share of its elements. Packed
    weights are compared dequantized, by correlation. Reads some megabytes of the files at a time, of stacked experts
    at least one expert; an offloaded or otherwise converted tensor is read whole. Leaves the model as it is. Raises
    CouldNotJudgeError when the files are not to be found.
    """
    import pandas as pd

    snapshot = take(model)
    rows = _differing(snapshot, sources(snapshot, checkpoint))
    return pd.DataFrame(rows, columns=list(VERIFY_COLUMNS))


def _differing(snapshot: Snapshot, files: Mapping[str, Source]) -> Iterator[_Row]:
    stored = sources_of(snapshot.entries, files, snapshot.ties)
    for entry in snapshot.entries:
        if entry.kind in ("non_persistent_buffer", "quant_state") or (entry.put_in and not entry.is_meta):
            continue
        row = _row_of(entry, stored[entry.name], snapshot)
        if row is not None:
            yield row


def _row_of(entry: Entry, stored: Source | None, snapshot: Snapshot) -> _Row | None:
    def row(status: str, diff: float | None = None, share: float | None = None) -> _Row:
        key, file = (stored.parts[0].key, stored.parts[0].file.name) if stored else ("", "")
        return (entry.name, status, key, file, tuple(entry.tensor.shape), str(entry.tensor.device), diff, share)

    try:
        value = held_value(entry, snapshot)
    except (OSError, KeyError, RuntimeError):
        return row("unreadable")
    if value is None:
        return row("no data")
    if stored is None:
        return None if entry.kind == "buffer" else row("not in the files")
    if entry.is_packed:
        quantizer = quantizer_of(entry.tensor)
        full = None if quantizer is None else quantizer.dequantized(entry.owner, entry.tensor)
        alike = _correlation(full, stored)
        return None if alike is None or alike > _PACKED_ALIKE else row("differs", None, 1.0 - alike)
    shape, read = _readable(stored)
    if tuple(value.shape) != shape:
        return row("shape")
    diff, share, finite = _compare(value, shape, read)
    if not finite:
        return row("not finite", None, share)
    return row("differs", diff, share) if share else None


def held_value(entry: Entry, snapshot: Snapshot, also_bypassed: bool = False) -> torch.Tensor | None:
    """The tensor's data wherever it is: here, in the hook's store, or None where nobody has it.

    `also_bypassed` takes it from the store of a hook that the module's forward does not reach any more.
    """
    if not entry.tensor.is_meta:
        return entry.tensor.detach()
    backing = entry.backing
    if backing.kind != "offloaded" and not (also_bypassed and backing.reason is Absence.FORWARD_BYPASSED):
        return None
    serving = snapshot.hooks.serving.get(entry.module_path, ())
    found = (one.read(entry.local_name) for one in serving if one.hook.offload)
    return next((value for value in found if value is not None), None)


def _correlation(value: torch.Tensor | None, stored: Source) -> float | None:
    """How alike two weights are, 1 for equal; bitsandbytes stores the weight of a Conv1D transposed."""
    if value is None:
        return None
    here, there, cosine = value.float().cpu(), stored.read().float(), torch.nn.functional.cosine_similarity
    both = [other for other in (there, there.t()) if here.dim() == 2 and here.shape == other.shape]
    return max((float(cosine(here.flatten(), other.flatten(), dim=0)) for other in both), default=None)


def _readable(stored: Source) -> tuple[tuple[int, ...], _Read]:
    """The shape, and what reads rows; stacked tensors stay in the files, other converted ones are built here."""
    if stored.converter is None:
        return stored.parts[0].shape, stored.parts[0].read
    if stored.stacked is not None:
        return (stored.stacked, *stored.read(0, 1).shape[1:]), stored.read
    built = stored.read()
    return tuple(built.shape), lambda start=0, stop=None: built[start:stop] if built.shape else built


def _compare(value: torch.Tensor, shape: tuple[int, ...], read: _Read) -> tuple[float, float, bool]:
    """Largest difference, share of different elements, and whether all are finite; by slices of rows."""
    if not shape:
        here, there = value.float().cpu(), read().to(value.dtype).float()
        return float((here - there).abs()), float(not torch.equal(here, there)), bool(torch.isfinite(here))
    rows = max(1, _CHUNK // max(1, value[0].numel()))
    largest, different, finite = 0.0, 0, True
    for start in range(0, shape[0], rows):
        here = value[start : start + rows].cpu()
        there = read(start, start + rows).to(here.dtype)
        unequal = here != there
        different += int(unequal.sum())
        if unequal.any():
            gap = (here.float() - there.float()).abs()
            finite = finite and bool(torch.isfinite(gap).all())
            largest = max(largest, float(gap.nan_to_num(0.0, posinf=0.0).max()))
    return largest, different / max(1, value.numel()), finite
