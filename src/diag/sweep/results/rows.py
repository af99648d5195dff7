"""From what a cell measured to its row in the matrix. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from diag.diagnosis.causes import get
from diag.proving.comparing import distance
from diag.proving.probing import Answer
from diag.proving.proof import judge
from diag.sweep.cell.loaderchecks import ignored_map, other_dtype
from diag.sweep.cell.measure import Failure, Measured, Planned
from diag.sweep.cell.neighbours import in_words, to_json
from diag.sweep.results.facts import facts_of
from diag.values.outcome import Proof
from diag.values.spec import LoadSpec
from diag.values.text import sentence

NEVER_LOADED = "uninitialised-values"

# Errors after which the question that a row asks was never reached: no access, network, file or room.
NO_ACCESS = frozenset({
    "CheckpointError", "ConnectionError", "ConnectTimeout", "CouldNotJudgeError", "GatedRepoError", "HfHubHTTPError",
    "HFValidationError", "HTTPError", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "OSError", "ReadTimeout",
    "RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "PermissionError", "FileNotFoundError",
})  # fmt: skip
_NO_ROOM = ("No space left on device", "Disk quota exceeded", "os error 28", "File too large")

MATRIX_COLUMNS = (
    "model", "device_map", "quantization", "hardware", "status", "simulated", "load_seconds", "forward_seconds",
    "peak_host_bytes", "peak_device_bytes", "n_resident", "n_offloaded", "n_missing", "n_quantized", "max_abs_diff",
    "kl_divergence", "top1_agreement", "repeatable", "quality_kl", "reference", "error_type", "error_text", "reason",
    "answer", "shared_with", "warnings", "free_bytes_before", "free_bytes_after", "held_by",
)  # fmt: skip

# Two runs of the same specs are judged equal in all other columns; `reason` may name sizes and who was there.
MEASURED_ANEW = ("load_seconds", "forward_seconds", "peak_host_bytes", "free_bytes_before", "free_bytes_after",
                 "held_by", "reason")  # fmt: skip

_DTYPES = {
    "simulated": "bool", "load_seconds": "float64", "forward_seconds": "float64", "peak_host_bytes": "Int64",
    "n_resident": "Int64", "n_offloaded": "Int64", "n_missing": "Int64", "n_quantized": "Int64",
    "max_abs_diff": "float64", "kl_divergence": "float64", "top1_agreement": "float64", "repeatable": "boolean",
    "quality_kl": "float64",
}  # fmt: skip


@dataclass(frozen=True)
class References:
    """The answers a row is held against: the twin's, and the unquantized model's for the quality figure."""

    twin: Answer | str
    unquantized: Answer | str


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per spec, all columns, numbers as numbers and text as text. `attrs["rows"]` keeps what has no column."""
    frame = pd.DataFrame(
        {name: pd.Series([row.get(name) for row in rows], dtype=_DTYPES.get(name, "string")) for name in MATRIX_COLUMNS}
    )
    frame.attrs["rows"] = [{"spec": row.get("spec"), "facts": row.get("facts")} for row in rows]
    return frame


def could_not_judge(row: dict[str, Any]) -> bool:
    """Whether a row says nothing about the model: never run, no twin, no access, no room."""
    status, text = row["status"], str(row.get("error_text") or "")
    if status in ("unchecked", "not_run"):
        return True
    if status not in ("load_error", "forward_error"):
        return False
    return (status == "load_error" and row.get("error_type") in NO_ACCESS) or any(part in text for part in _NO_ROOM)


def blank_row(spec: LoadSpec, status: str, reason: str) -> dict[str, Any]:
    """A row for a cell that never came to a measurement."""
    row: dict[str, Any] = dict.fromkeys(MATRIX_COLUMNS)
    row.update(model=spec.model, device_map=spec.device_map_text, quantization=spec.quantization,
               hardware=spec.hardware_text, simulated=spec.simulated, status=status, reason=reason,
               spec=spec.to_json(), facts=None)  # fmt: skip
    return row


def failed_row(spec: LoadSpec, failure: Failure) -> dict[str, Any]:
    row = blank_row(spec, failure.status, sentence(failure.reason) if failure.reason else "")
    row.update(error_type=failure.error_type, error_text=failure.error_text)
    return row


def measured_row(plan: Planned, measured: Measured, references: References) -> dict[str, Any]:
    """The full row: load, placement, answer and judgement."""
    failure = measured.failure
    row = failed_row(plan.spec, failure) if failure else blank_row(plan.spec, "unchecked", "")
    row.update(_load_facts(measured), **_placement_facts(measured.placement))
    sentences = [row["reason"]]
    if measured.answer is not None:
        answer = Answer.from_bytes(measured.answer)
        sentences = [_judge_into(row, answer, measured, references)]
    sentences += _loader_sentences(plan.spec, measured, references, row)
    sentences += [_cause_sentence(measured, references), _packed_sentence(plan, measured, row), measured.adapter,
                  _missing_sentence(measured, sentences[0]), plan.spilled, _others_sentence(measured, row)]  # fmt: skip
    row["reason"] = " ".join(sentence(s) for s in sentences if s)
    row["facts"] = facts_of(plan, measured)
    return row


def shared_row(row: dict[str, Any], spec: LoadSpec) -> dict[str, Any]:
    """The same load seen from another spec that resolves to the same map, quantization and dtype."""
    source = row["shared_with"] or row["device_map"]
    text = f"Same map as {source!r} here, so one load served both. {row['reason']}"
    return {**row, **blank_facts(spec), "shared_with": source, "reason": text}


def blank_facts(spec: LoadSpec) -> dict[str, Any]:
    names = ("model", "device_map", "quantization", "hardware", "simulated", "spec")
    return {name: blank_row(spec, "", "")[name] for name in names}


def _load_facts(measured: Measured) -> dict[str, Any]:
    devices = {name: size for name, size in measured.peak_bytes.items() if name != "cpu"}
    return {
        "load_seconds": measured.load_seconds,
        "peak_host_bytes": measured.peak_bytes.get("cpu"),
        "peak_device_bytes": json.dumps(devices, sort_keys=True) if devices else None,
        "warnings": "\n".join(measured.notes) or None,
        "free_bytes_before": _json_or_none(measured.free_before),
        "free_bytes_after": _json_or_none(measured.free_after),
        "held_by": _json_or_none(to_json(measured.others)),
    }


def _json_or_none(value: Any) -> str | None:
    return json.dumps(value, sort_keys=True) if value else None


def _placement_facts(table: pd.DataFrame | None) -> dict[str, Any]:
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


def _judge_into(row: dict[str, Any], answer: Answer, measured: Measured, references: References) -> str:
    row.update(forward_seconds=answer.seconds, repeatable=answer.repeatable, answer=answer.text or None)
    proof = _proof(answer, measured, references.twin)
    row.update(max_abs_diff=proof.max_abs_diff, kl_divergence=proof.kl_divergence, reference=proof.reference or None,
               top1_agreement=proof.top1_agreement, quality_kl=_quality(answer, references.unquantized))  # fmt: skip
    row["status"] = {True: "ok", False: "wrong_output", None: "unchecked"}[proof.proved]
    return proof.reason


def _proof(answer: Answer, measured: Measured, twin: Answer | str) -> Proof:
    if answer.problem:
        return Proof(False, answer.problem)
    if isinstance(twin, str):
        return Proof(None if answer.repeatable else False,
                     twin if answer.repeatable else "two runs of the same input gave different answers")  # fmt: skip
    return judge(answer, twin, exact=measured.exact, dtype=measured.dtype)


def _quality(answer: Answer, unquantized: Answer | str) -> float | None:
    if isinstance(unquantized, str) or answer.problem or unquantized.outputs.shape != answer.outputs.shape:
        return None
    return distance(answer.outputs, unquantized.outputs).kl_divergence


def _cause_sentence(measured: Measured, references: References) -> str:
    """Names what is wrong with the model; a healthy row of a healthy model says nothing."""
    if not measured.causes:
        unfilled = measured.answer is not None and isinstance(references.twin, Answer) and references.twin.unfilled
        if not unfilled:
            return ""
    cause, title = measured.causes[0] if measured.causes else (NEVER_LOADED, get(NEVER_LOADED).title)
    return f"Cause: {cause} ({title.rstrip('.')})"


def _loader_sentences(spec: LoadSpec, measured: Measured, references: References, row: dict[str, Any]) -> list[str]:
    """What a user's loader did otherwise than asked: said of every row, a mix of dtypes only where it can matter."""
    of_twin = references.twin.dtype if isinstance(references.twin, Answer) else ""
    dtypes = other_dtype(spec, measured.placement, measured.dtype, of_twin)
    harmless = row["status"] == "ok" and measured.dtype == of_twin
    return [ignored_map(spec, measured.placement, measured.free_before), "" if harmless else dtypes]


def _others_sentence(measured: Measured, row: dict[str, Any]) -> str:
    """Who held memory on the devices, where that may explain the row."""
    held = [other for other in measured.others if other.device != "cpu" or row["status"] == "out_of_memory"]
    return f"Before the load, {in_words(held)}" if held else ""


def _packed_sentence(plan: Planned, measured: Measured, row: dict[str, Any]) -> str:
    asked, packed = plan.spec.quantization, row.get("n_quantized")
    if asked == "none" or packed is None or measured.placement is None:
        return ""
    total = plan.n_linear or measured.n_linear
    return f"Asked {asked}, {packed} of {total} linear layers are packed."


def _missing_sentence(measured: Measured, said: str) -> str:
    """The newly initialised tensors of a row that is not wrong because of them."""
    keys = measured.missing_keys
    if not keys or "newly initialised" in said:
        return ""
    many = f"{len(keys)} tensors are" if len(keys) > 1 else "1 tensor is"
    harmless = ": a new head, or nothing that the answer needs" * (measured.failure is None)
    return f"{many} not in the checkpoint and newly initialised, {keys[0]!r} among them{harmless}."
