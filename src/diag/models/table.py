"""placement(): one row per tensor name, where its data is and who will move it; and its totals, as DataFrames."""

import re
from collections.abc import Iterable

import pandas as pd

from diag.models.devices import device_texts
from diag.models.snapshot import take

_NUMBERED = re.compile(r"(.*?\.\d+)(?:\.|$)")
PLACEMENT_COLUMNS = tuple(
    "name kind module module_class shape dtype numel nbytes device mapped_device execution_device backing quantization "
    "tied_group".split()
)


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
    entries, texts = snapshot.in_table_order, device_texts(snapshot)
    columns: dict[str, list[object]] = {
        "name": [e.name for e in entries],
        "kind": [e.kind for e in entries],
        "module": [e.module_path for e in entries],
        "module_class": [type(e.owner).__name__ for e in entries],
        "shape": [e.shape for e in entries],
        "dtype": [str(e.dtype).removeprefix("torch.") for e in entries],
        "numel": [e.numel for e in entries],
        "nbytes": [e.nbytes for e in entries],
        "device": [texts[e.device] for e in entries],
        "mapped_device": [texts[e.mapped_device] or None for e in entries],
        "execution_device": [texts[e.execution_device] or None for e in entries],
        "backing": [e.backing.kind for e in entries],
        "quantization": [e.quantization for e in entries],
        "tied_group": [snapshot.tied_groups[e.name] for e in entries],
    }
    frame = pd.DataFrame({name: pd.Series(columns[name], dtype=_dtype_of(name)) for name in PLACEMENT_COLUMNS})
    if snapshot.unreadable:
        frame.attrs["unreadable"] = tuple(map(str, snapshot.unreadable))
    return frame


def _dtype_of(column: str) -> str:
    if column in ("numel", "nbytes", "tied_group"):
        return "int64"
    return "object" if column == "shape" else "string"


def by_device(table: pd.DataFrame) -> pd.DataFrame:
    """Tensors, logical elements and bytes per device and backing, each tied tensor once.

    Bytes on `meta` are sizes of what is elsewhere or nowhere, not memory held.
    """
    groups = table.drop_duplicates("tied_group").groupby(["device", "backing"], sort=True)
    return groups.agg(n_tensors=("name", "size"), numel=("numel", "sum"), nbytes=("nbytes", "sum")).reset_index()


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """One row per layer, in the model's order: bytes, where its tensors are, and how many are offloaded or missing.

    A layer is a numbered module (`model.layers.3`) or, outside of those, the module itself.
    """
    once = table.drop_duplicates("tied_group")
    once = once.assign(layer=[found[1] if (found := _NUMBERED.match(name)) else name for name in once.module])
    groups = once.groupby("layer", sort=False)
    frame = groups.agg(n_tensors=("name", "size"), nbytes=("nbytes", "sum"), numel=("numel", "sum"))
    frame["device"] = groups.device.agg(_distinct)
    frame["mapped_device"] = groups.mapped_device.agg(_distinct)
    counts = groups.backing.value_counts().unstack(fill_value=0)
    for backing, column in (("resident", "n_resident"), ("offloaded", "n_offloaded"), ("none", "n_missing")):
        frame[column] = counts.get(backing, pd.Series(0, index=frame.index))
    frame["quantization"] = groups.quantization.agg(lambda values: _distinct(v for v in values if v != "none"))
    return frame.reset_index()


def _distinct(values: Iterable[object]) -> str:
    seen = dict.fromkeys(str(v) for v in values if v is not pd.NA and v is not None)
    return ", ".join(seen)
