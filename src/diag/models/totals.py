"""Totals of a placement table, per device and per layer. Each is a plain DataFrame."""

import re
from collections.abc import Iterable

import pandas as pd

_NUMBERED = re.compile(r"(.*?\.\d+)(?:\.|$)")


def by_device(table: pd.DataFrame) -> pd.DataFrame:
    """Tensors, logical elements and bytes per device and backing, each tied tensor once.

    Bytes on `meta` are sizes of what is elsewhere or nowhere, not memory held.
    """
    return _sums(table, ["device", "backing"])


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """One row per layer, in the model's order: bytes, where its tensors are, and how many are offloaded or missing.

    A layer is a numbered module (`model.layers.3`) or, outside of those, the module itself.
    """
    once = table.drop_duplicates("tied_group").assign(layer=lambda t: [_layer(m) for m in t.module])
    groups = once.groupby("layer", sort=False)
    frame = groups.agg(n_tensors=("name", "size"), nbytes=("nbytes", "sum"), numel=("numel", "sum"))
    frame["device"] = groups.device.agg(_distinct)
    frame["mapped_device"] = groups.mapped_device.agg(_distinct)
    counts = groups.backing.value_counts().unstack(fill_value=0)
    for backing, column in (("resident", "n_resident"), ("offloaded", "n_offloaded"), ("none", "n_missing")):
        frame[column] = counts.get(backing, pd.Series(0, index=frame.index))
    frame["quantization"] = groups.quantization.agg(lambda values: _distinct(v for v in values if v != "none"))
    return frame.reset_index()


def _sums(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    once = table.drop_duplicates("tied_group")
    sums = once.groupby(keys, sort=True).agg(
        n_tensors=("name", "size"), numel=("numel", "sum"), nbytes=("nbytes", "sum")
    )
    return sums.reset_index()


def _layer(module: str) -> str:
    match = _NUMBERED.match(module)
    return match[1] if match else module


def _distinct(values: Iterable[object]) -> str:
    seen = dict.fromkeys(str(v) for v in values if v is not pd.NA and v is not None)
    return ", ".join(seen)
