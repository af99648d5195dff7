"""Matrix rows and placement tables typed by hand, with the columns that diag.matrix and diag.placement give."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from diag.models.table import PLACEMENT_COLUMNS
from diag.sweep.results.rows import blank_row, frame_of
from diag.values.spec import LoadSpec

SIMULATED = "2x300MiB+8GiB"
RULE = "bitsandbytes keeps no 4-bit weights on cpu or disk (transformers quantizer_bnb_4bit.py)."


def worked(device_map: str, quantization: str = "none", hardware: str | None = None, **changes: Any) -> dict[str, Any]:
    """A row of a combination that loaded and gave its reference's answer; `changes` are columns."""
    row = blank_row(LoadSpec("smollm2", device_map, quantization, hardware), "ok", "Equal bit for bit, twice.")
    row.update(load_seconds=0.6, forward_seconds=0.05, peak_host_bytes=541 * 2**20, reference="twin", answer=" Paris.")
    row.update(n_resident=272, n_offloaded=0, n_missing=0, n_quantized=0)
    row.update(max_abs_diff=0.0, kl_divergence=0.0, top1_agreement=1.0, repeatable=True, quality_kl=0.0)
    if hardware:
        row["peak_device_bytes"] = json.dumps({"simgpu:0": 270 * 2**20, "simgpu:1": 200 * 2**20})
    return {**row, **changes}


def failed(device_map: str, quantization: str, status: str, reason: str, **changes: Any) -> dict[str, Any]:
    """A row of a combination that never gave an answer."""
    return {**blank_row(LoadSpec("smollm2", device_map, quantization), status, reason), **changes}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return frame_of(list(rows))


def table(places: str, **columns: Any) -> pd.DataFrame:
    """A model of an embedding, layers and a head: one sign a unit. `0`, `1`: simulated GPU; `C`: CPU; `c`, `d`:
    offloaded to CPU or disk; `x`: missing."""
    layers = len(places) - 2
    names = ["model.embed_tokens", *(f"model.layers.{i}.mlp.up_proj" for i in range(layers)), "lm_head"]
    rows = [_row(name, sign, number) for number, (name, sign) in enumerate(zip(names, places, strict=True))]
    return pd.DataFrame(rows, columns=PLACEMENT_COLUMNS).assign(**columns)


def _row(module: str, sign: str, number: int) -> tuple[Any, ...]:
    mapped = {"0": "simgpu:0", "1": "simgpu:1", "C": "cpu", "c": "cpu", "d": "disk", "x": "simgpu:0"}[sign]
    backing = {"c": "offloaded", "d": "offloaded", "x": "none"}.get(sign, "resident")
    device = mapped if backing == "resident" else "meta"
    size = 512 * 512
    return (
        f"{module}.weight", "parameter", module, "Linear", (512, 512), "float32", size, size * 4, device, mapped,
        "simgpu:0", backing, "none", number,
    )  # fmt: skip
