"""What a row keeps for a later comparison: where the bytes are, and the answer as a sketch. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pandas as pd

from diag.proving.probing import Answer
from diag.sweep.cell.measure import Measured, Planned
from diag.sweep.results.sketch import sketch


def facts_of(plan: Planned, measured: Measured) -> dict[str, Any]:
    """Plain JSON values.

    `placed` are bytes by place (a device, `offloaded to disk`, `nowhere`), `map` the resolved device map, `sketch` the
    answer's, with the digest of its bits and its dtype; `checkpoint` changes when the model's files do.
    """
    facts: dict[str, Any] = {
        "map": plan.resolved_map, "checkpoint": plan.fingerprint, "dtype": measured.dtype, "placed": {},
        "causes": [cause for cause, _ in measured.causes],
    }  # fmt: skip
    if measured.placement is not None:
        facts["placed"] = placed_bytes(measured.placement)
    if measured.answer is not None:
        answer = Answer.from_bytes(measured.answer)
        facts["probe"] = answer.probe
        if not answer.problem:
            facts["sketch"] = sketch(answer.outputs)
            facts["digest"] = hashlib.sha256(answer.outputs.tobytes() + json.dumps(answer.tokens).encode()).hexdigest()[
                :16
            ]
    return facts


def placed_bytes(table: pd.DataFrame) -> dict[str, int]:
    """Bytes by place, each tied tensor once: the device it is on, where it is offloaded to, or nowhere."""
    once = table.drop_duplicates("tied_group")
    places = [_place(row) for row in once[["device", "backing", "mapped_device"]].itertuples(index=False)]
    sums = once["nbytes"].groupby(pd.Series(places, index=once.index, dtype="object")).sum()
    return {str(place): int(size) for place, size in sorted(sums.items())}


def _place(row: Any) -> str:
    if row.backing == "resident":
        return str(row.device)
    if row.backing == "offloaded":
        return "offloaded" if pd.isna(row.mapped_device) else f"offloaded to {row.mapped_device}"
    return "nowhere"
