"""The reason of a row: sentences on the answer, its cause, and what the load did otherwise than asked. Pure."""

from collections.abc import Iterable

import pandas as pd

from diag.diagnosis.causes.uninitialised_values import CAUSE as NEVER_LOADED
from diag.proving.probing import Answer
from diag.sweep.cell.records import Measured, Planned
from diag.sweep.results.store import Row
from diag.values.outcome import Proof
from diag.values.spec import AUTO_PRESETS, LoadSpec
from diag.values.text import sentence

_FLOATS = ("float64", "float32", "float16", "bfloat16")


def reason_of(plan: Planned, measured: Measured, row: Row, proof: Proof | None, twin: Answer | str) -> str:
    """All sentences of a measured row, whose other columns are filled; `proof` is None where there is no answer."""
    unfilled = isinstance(twin, Answer) and bool(twin.unfilled) and measured.answer is not None
    table, spec = measured.placement, plan.spec
    of_twin = twin.dtype if isinstance(twin, Answer) else ""
    harmless = row["status"] == "ok" and measured.dtype == of_twin  # a mix of dtypes is said only where it can matter
    # Where the twin lacks values too, the sentence of the proof names them already.
    names_them = unfilled and proof is not None and proof.max_abs_diff is not None and row["repeatable"]
    asked, packed = spec.quantization, row["n_quantized"]
    of_layers = f"asked {asked}, {packed} of {plan.n_linear or measured.n_linear} linear layers are packed"
    held = [str(other) for other in measured.others if other.device != "cpu" or row["status"] == "out_of_memory"]
    said = [
        row["reason"] if proof is None else proof.reason,
        ignored_map(spec, table, measured.free_before),
        "" if harmless else other_dtype(spec, table, measured.dtype, of_twin),
        _cause(measured, unfilled),
        "" if asked == "none" or packed is None else of_layers,
        measured.adapter,
        "" if names_them else _newly_initialised(measured),
        plan.spilled,
        f"before the load, {'; '.join(held)}" if held else "",
    ]
    return " ".join(sentence(one) for one in said if one)


def ignored_map(spec: LoadSpec, table: pd.DataFrame | None, devices: Iterable[str]) -> str:
    """Says that a user's loader did not follow the map; `devices` are those of the machine. Empty where it may have."""
    if spec.loader is None or table is None or spec.device_map == "none" or not len(table):
        return ""
    if (table.backing == "none").any():  # weights that were offloaded, and then lost their hooks
        return ""
    accelerators = [name for name in devices if name != "cpu"]
    asked = set() if isinstance(spec.device_map, str) else {str(device) for _, device in spec.device_map}
    found = set(table.device[table.backing == "resident"]) - {"meta"}
    offloaded = bool((table.backing == "offloaded").any())
    what = f"asked device_map={spec.device_map_text!r}, and"
    if (spec.device_map in ("disk", "offload") or "disk" in asked) and not offloaded:
        return f"{what} no tensor is offloaded: the loader seems to ignore device_map"
    wants = spec.device_map in (*AUTO_PRESETS, "single") or bool(asked - {"cpu", "disk", "meta"})
    if wants and accelerators and found == {"cpu"} and not offloaded:
        return f"{what} every tensor is on the CPU, none on {', '.join(accelerators)}: the loader seems to ignore it"
    if (spec.device_map == "cpu" or asked == {"cpu"}) and found - {"cpu"}:
        return f"{what} tensors are on {', '.join(sorted(found - {'cpu'}))}: the loader seems to ignore it"
    return ""


def other_dtype(spec: LoadSpec, table: pd.DataFrame | None, dtype: str, of_twin: str) -> str:
    """Names both dtypes where the model of a user's loader is not in that of its twin, or in several."""
    if spec.loader is None or table is None:
        return ""
    if of_twin and dtype != of_twin:
        return f"the loader's model is in {dtype}, and the same checkpoint, loaded as asked, in {of_twin}"
    plain = table[(table.kind == "parameter") & (table.quantization == "none")]
    dtypes = plain.dtype.astype(str).str.removeprefix("torch.")
    counts = dtypes.value_counts()
    mixed = [name for name in counts.index if name in _FLOATS]
    if len(mixed) < 2:
        return ""
    rare, usual = mixed[-1], mixed[0]
    few = f"{counts[rare]} in {rare}, {plain.name[dtypes == rare].iloc[0]!r} first"
    return f"its parameters are in {len(mixed)} dtypes: {few}, the rest in {usual}"


def _cause(measured: Measured, unfilled: bool) -> str:
    """Names what is wrong with the model; a healthy row of a healthy model says nothing."""
    if measured.causes:
        first = measured.causes[0]
        return f"Cause: {first.cause} ({first.title.rstrip('.')})"
    return f"Cause: {NEVER_LOADED.id} ({NEVER_LOADED.title.rstrip('.')})" if unfilled else ""


def _newly_initialised(measured: Measured) -> str:
    keys = measured.missing_keys
    if not keys:
        return ""
    many = f"{len(keys)} tensors are" if len(keys) > 1 else "1 tensor is"
    harmless = ": a new head, or nothing that the answer needs" * (measured.failure is None)
    return f"{many} not in the checkpoint and newly initialised, {keys[0]!r} among them{harmless}."
