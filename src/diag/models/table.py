"""placement(): one row per tensor name, where its data is and who will move it."""

from typing import NamedTuple

import pandas as pd

from diag.models.devices import device_name
from diag.models.snapshot import Snapshot, take

_KIND_ORDER = {"parameter": 0, "buffer": 1, "non_persistent_buffer": 2, "quant_state": 3}


class PlacementRow(NamedTuple):
    """One row of the table; its columns are described at `placement`."""

    name: str
    kind: str
    module: str
    module_class: str
    shape: tuple[int, ...] | None
    dtype: str
    numel: int
    nbytes: int
    device: str
    mapped_device: str | None
    execution_device: str | None
    backing: str
    quantization: str
    tied_group: int


PLACEMENT_COLUMNS = PlacementRow._fields


def placement(model: object) -> pd.DataFrame:
    """One row per tensor name, tied names included: where its data is and who will move it.

    Reads attributes only: no forward pass, no `.to()`, nothing is loaded from a `weights_map`, `state_dict` is not
    called. `nbytes` is `tensor.nbytes` in bytes (a meta tensor reports its size, not memory held); `numel` is
    logical, so packed 4-bit weights count their real elements. Devices are text; NA in `mapped_device` means there is
    no map, in `execution_device` that no hook sets one. Rows with the same `tied_group` are one tensor: count it once.
    A pipeline (an object with `components`) or a dict of modules gets its components' names as prefixes.
    Returns `PLACEMENT_COLUMNS`, parameters first; what could not be read is in `.attrs["unreadable"]`, in sentences.
    Raises NotAModelError for anything else.
    Source: accelerate 1.15.0 `hooks.py`; bitsandbytes 0.50.2 `nn/modules.py` for quantization state.

    >>> placement(nn.Linear(3, 4))[["name", "shape", "device", "backing"]].values.tolist()
    [['weight', (4, 3), 'cpu', 'resident'], ['bias', (4,), 'cpu', 'resident']]
    """
    snapshot = take(model)
    rows = tabulate(snapshot)
    columns = zip(*rows) if rows else ((),) * len(PLACEMENT_COLUMNS)
    frame = pd.DataFrame({n: pd.Series(list(c), dtype=_dtype_of(n)) for n, c in zip(PLACEMENT_COLUMNS, columns)})
    if snapshot.unreadable:
        frame.attrs["unreadable"] = tuple(map(str, snapshot.unreadable))
    return frame


def _dtype_of(column: str) -> str:
    if column in ("numel", "nbytes", "tied_group"):
        return "int64"
    return "object" if column == "shape" else "string"


def tabulate(snapshot: Snapshot) -> list[PlacementRow]:
    """The rows of the table, parameters first; None where there is no map or no hook."""
    mapped, executing = ({getattr(e, of) for e in snapshot.entries} for of in ("mapped_device", "execution_device"))
    names = {one: one if one is None else device_name(one, snapshot.accelerator) for one in mapped | executing}
    dtypes = {dtype: str(dtype).removeprefix("torch.") for dtype in {e.dtype for e in snapshot.entries}}
    devices = {device: str(device) for device in {e.device for e in snapshot.entries}}
    rows = [
        PlacementRow(
            e.name,
            e.kind,
            e.module_path,
            type(e.owner).__name__,
            e.shape,
            dtypes[e.dtype],
            e.numel,
            e.nbytes,
            devices[e.device],
            names[e.mapped_device],
            names[e.execution_device],
            e.backing.kind,
            e.quantization,
            snapshot.tied_groups[e.name],
        )
        for e in snapshot.entries
    ]
    return sorted(rows, key=lambda row: _KIND_ORDER[row.kind])
