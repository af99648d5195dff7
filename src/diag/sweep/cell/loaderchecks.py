"""What a user's loader made of its request, where that is not what was asked: map, dtype. Sentences for a row. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from diag.values.spec import AUTO_PRESETS, LoadSpec

_FLOATS = ("float64", "float32", "float16", "bfloat16")


def ignored_map(spec: LoadSpec, table: pd.DataFrame | None, devices: Mapping[str, Any]) -> str:
    """Says that the map was not followed; `devices` are those of the machine. Empty where it was, or may have been."""
    if spec.loader is None or table is None or spec.device_map == "none" or not len(table):
        return ""
    if (table.backing == "none").any():  # weights that were offloaded, and then lost their hooks
        return ""
    accelerators = [name for name in devices if name != "cpu"]
    asked = {str(device) for device in dict(spec.device_map).values()} if not isinstance(spec.device_map, str) else None
    found = set(table.device[table.backing == "resident"]) - {"meta"}
    offloaded = int((table.backing == "offloaded").sum())
    what = f"asked device_map={spec.device_map_text!r}, and"
    if (spec.device_map in ("disk", "offload") or (asked and "disk" in asked)) and not offloaded:
        return f"{what} no tensor is offloaded: the loader seems to ignore device_map"
    wants = spec.device_map in (*AUTO_PRESETS, "single") or bool(asked and asked - {"cpu", "disk", "meta"})
    if wants and accelerators and found == {"cpu"} and not offloaded:
        return f"{what} every tensor is on the CPU, none on {', '.join(accelerators)}: the loader seems to ignore it"
    if (spec.device_map == "cpu" or asked == {"cpu"}) and found - {"cpu"}:
        return f"{what} tensors are on {', '.join(sorted(found - {'cpu'}))}: the loader seems to ignore it"
    return ""


def other_dtype(spec: LoadSpec, table: pd.DataFrame | None, dtype: str, of_twin: str) -> str:
    """Names both dtypes where the loader's model is not in that of its twin, or in several."""
    if spec.loader is None or table is None:
        return ""
    if of_twin and dtype != of_twin:
        return f"the loader's model is in {dtype}, and the same checkpoint, loaded as asked, in {of_twin}"
    plain = table[(table.kind == "parameter") & (table.quantization == "none")]
    counts = plain.dtype.astype(str).str.removeprefix("torch.").value_counts()
    mixed = [name for name in counts.index if name in _FLOATS]
    if len(mixed) < 2:
        return ""
    rare = mixed[-1]
    first = plain.name[plain.dtype.astype(str).str.removeprefix("torch.") == rare].iloc[0]
    return (
        f"its parameters are in {len(mixed)} dtypes: {counts[rare]} in {rare}, {first!r} first, the rest in {mixed[0]}"
    )
