"""From what a cell measured to its row in the matrix. Pure."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from diag.proving.probing import Answer
from diag.proving.proof import distance, proof_of
from diag.sweep.cell.records import Failure, Measured, Planned
from diag.sweep.results import reasons
from diag.sweep.results.sketch import sketch
from diag.sweep.results.store import Row
from diag.values.outcome import Proof
from diag.values.spec import LoadSpec
from diag.values.text import sentence

MATRIX_COLUMNS = tuple(
    "model device_map quantization hardware status simulated load_seconds forward_seconds peak_host_bytes "
    "peak_device_bytes n_resident n_offloaded n_missing n_quantized max_abs_diff kl_divergence top1_agreement "
    "repeatable quality_kl reference error_type error_text reason answer shared_with warnings free_bytes_before "
    "free_bytes_after held_by".split()
)
_OF_SPEC = ("model", "device_map", "quantization", "hardware", "simulated", "spec")
_FLOATS = "load_seconds forward_seconds max_abs_diff kl_divergence top1_agreement quality_kl".split()
_COUNTS = "peak_host_bytes n_resident n_offloaded n_missing n_quantized".split()
_DTYPES = {
    **dict.fromkeys(MATRIX_COLUMNS, "string"),
    **dict.fromkeys(_FLOATS, "float64"),
    **dict.fromkeys(_COUNTS, "Int64"),
    "simulated": "bool",
    "repeatable": "boolean",
}
# Two runs of the same specs are judged equal in all other columns; `reason` may name sizes and who was there.
MEASURED_ANEW = tuple(
    "load_seconds forward_seconds peak_host_bytes free_bytes_before free_bytes_after held_by reason".split()
)

# Errors after which the question that a row asks was never reached: no access, network, file or room.
NO_ACCESS = frozenset(
    "CheckpointError ConnectionError ConnectTimeout CouldNotJudgeError GatedRepoError HfHubHTTPError HFValidationError "
    "HTTPError LocalEntryNotFoundError OfflineModeIsEnabled OSError ReadTimeout RepositoryNotFoundError "
    "RevisionNotFoundError EntryNotFoundError PermissionError FileNotFoundError".split()
)
_NO_ROOM = ("No space left on device", "Disk quota exceeded", "os error 28", "File too large")


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """One row per spec, all columns, numbers as numbers and text as text. `attrs["rows"]` keeps what has no column."""
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=dtype) for name, dtype in _DTYPES.items()}
    frame = pd.DataFrame(columns)
    frame.attrs["rows"] = [{"spec": row.get("spec"), "facts": row.get("facts")} for row in rows]
    return frame


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as JSON values, with the spec and the facts where the frame still carries them."""
    columns = json.loads(frame.to_json(orient="records"))
    beside = frame.attrs.get("rows") or []
    if len(beside) != len(columns):  # rows were taken out of the frame
        return columns
    return [{**row, **extra} for row, extra in zip(columns, beside)]


def could_not_judge(row: Row) -> bool:
    """Whether a row says nothing about the model: never run, no twin, no access, no room."""
    status, text = row["status"], str(row.get("error_text") or "")
    if status in ("unchecked", "not_run"):
        return True
    if status not in ("load_error", "forward_error"):
        return False
    return (status == "load_error" and row.get("error_type") in NO_ACCESS) or any(part in text for part in _NO_ROOM)


def blank_row(spec: LoadSpec, status: str, reason: str) -> Row:
    """A row for a cell that never came to a measurement."""
    row: Row = dict.fromkeys(MATRIX_COLUMNS)
    row.update(model=spec.model, device_map=spec.device_map_text, quantization=spec.quantization)
    row.update(hardware=spec.hardware_text, simulated=spec.simulated, status=status, reason=reason)
    return {**row, "spec": spec.to_json(), "facts": None}


def failed_row(spec: LoadSpec, failure: Failure) -> Row:
    row = blank_row(spec, failure.status, sentence(failure.reason))
    return {**row, "error_type": failure.error_type, "error_text": failure.error_text}


def shared_row(row: Row, spec: LoadSpec) -> Row:
    """The same load seen from another spec that resolves to the same map, quantization and dtype."""
    source = row["shared_with"] or row["device_map"]
    blank = blank_row(spec, "", f"Same map as {source!r} here, so one load served both. {row['reason']}")
    return {**row, **{name: blank[name] for name in (*_OF_SPEC, "reason")}, "shared_with": source}


def measured_row(plan: Planned, measured: Measured, twin: Answer | str, unquantized: Answer | str) -> Row:
    """The full row: load, placement, answer and judgement.

    It is held against the twin's answer, and for the quality figure against the unquantized model's; a text says why
    there is none.
    """
    failure = measured.failure
    row = failed_row(plan.spec, failure) if failure else blank_row(plan.spec, "unchecked", "")
    row.update(_load_columns(measured), **_placement_columns(measured.placement))
    proof = None
    if measured.answer is not None:
        answer = Answer.from_bytes(measured.answer)
        proof = _proof(answer, measured, twin)
        row.update(_answer_columns(answer, proof), quality_kl=_quality(answer, unquantized))
    row["reason"] = reasons.reason_of(plan, measured, row, proof, twin)
    row["facts"] = facts_of(plan, measured)
    return row


def facts_of(plan: Planned, measured: Measured) -> dict[str, object]:
    """What a later comparison needs, as JSON values.

    `placed` are bytes by place (a device, `offloaded to disk`, `nowhere`), `map` the resolved device map, `sketch` the
    answer's, with the digest of its bits and its dtype; `checkpoint` changes when the model's files do.
    """
    table = measured.placement
    facts: dict[str, object] = {
        "map": plan.resolved_map,
        "checkpoint": plan.fingerprint,
        "dtype": measured.dtype,
        "placed": {} if table is None else placed_bytes(table),
        "causes": [finding.cause for finding in measured.causes],
    }
    if measured.answer is not None:
        answer = Answer.from_bytes(measured.answer)
        facts["probe"] = answer.probe
        if not answer.problem:
            bits = answer.outputs.tobytes() + json.dumps(answer.tokens).encode()
            facts.update(sketch=sketch(answer.outputs), digest=hashlib.sha256(bits).hexdigest()[:16])
    return facts


def placed_bytes(table: pd.DataFrame) -> dict[str, int]:
    """Bytes by place, each tied tensor once: the device it is on, where it is offloaded to, or nowhere."""
    once = table.drop_duplicates("tied_group")
    target = once["mapped_device"].map(lambda device: "offloaded" if pd.isna(device) else f"offloaded to {device}")
    places = once["device"].astype("object").where(once["backing"] == "resident", "nowhere")
    places = places.mask(once["backing"] == "offloaded", target)
    sums = once["nbytes"].groupby(places).sum()
    return {str(place): int(size) for place, size in sorted(sums.items())}


def _load_columns(measured: Measured) -> Row:
    devices = {name: size for name, size in measured.peak_bytes.items() if name != "cpu"}
    return {
        "load_seconds": measured.load_seconds,
        "peak_host_bytes": measured.peak_bytes.get("cpu"),
        "peak_device_bytes": _json_or_none(devices),
        "warnings": "\n".join(measured.notes) or None,
        "free_bytes_before": _json_or_none(measured.free_before),
        "free_bytes_after": _json_or_none(measured.free_after),
        "held_by": _json_or_none([asdict(other) for other in measured.others]),
    }


def _json_or_none(value: object) -> str | None:
    return json.dumps(value, sort_keys=True) if value else None


def _placement_columns(table: pd.DataFrame | None) -> Row:
    if table is None:
        return {}
    once = table[table.kind != "quant_state"].drop_duplicates("tied_group")
    counts = once.backing.value_counts()
    packed = table[(table.kind == "parameter") & (table.quantization != "none")]
    return {
        "n_resident": int(counts.get("resident", 0)),
        "n_offloaded": int(counts.get("offloaded", 0)),
        "n_missing": int((table.backing == "none").sum()),
        "n_quantized": len(packed),
    }


def _answer_columns(answer: Answer, proof: Proof) -> Row:
    return {
        "status": {True: "ok", False: "wrong_output", None: "unchecked"}[proof.proved],
        "forward_seconds": answer.seconds,
        "repeatable": answer.repeatable,
        "answer": answer.text or None,
        "max_abs_diff": proof.max_abs_diff,
        "kl_divergence": proof.kl_divergence,
        "top1_agreement": proof.top1_agreement,
        "reference": proof.reference or None,
    }


def _proof(answer: Answer, measured: Measured, twin: Answer | str) -> Proof:
    if answer.problem:
        return Proof(False, answer.problem)
    if not isinstance(twin, str):
        return proof_of(answer, twin, exact=measured.exact, dtype=measured.dtype)
    if not answer.repeatable:
        return Proof(False, "two runs of the same input gave different answers")
    return Proof(None, twin)


def _quality(answer: Answer, unquantized: Answer | str) -> float | None:
    if isinstance(unquantized, str) or answer.problem or unquantized.outputs.shape != answer.outputs.shape:
        return None
    return distance(answer.outputs, unquantized.outputs).kl_divergence
