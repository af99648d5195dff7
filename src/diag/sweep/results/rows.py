"""From what a cell measured to its row in the matrix, and in sentences why it came out so. Pure."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import pandas as pd

from diag.diagnosis.causes.uninitialised_values import CAUSE as NEVER_LOADED
from diag.proving.probing import Answer
from diag.proving.proof import distance, proof_of
from diag.sweep.cell.records import Failure, Measured, Planned
from diag.sweep.results.sketch import sketch
from diag.sweep.results.store import Row
from diag.values.outcome import Proof
from diag.values.spec import AUTO_PRESETS, LoadSpec
from diag.values.text import sentence

MATRIX_COLUMNS = tuple(
    "model device_map quantization hardware status simulated load_seconds forward_seconds peak_host_bytes "
    "peak_device_bytes n_resident n_offloaded n_missing n_quantized max_abs_diff kl_divergence top1_agreement "
    "repeatable quality_kl reference error_type error_text reason answer shared_with warnings free_bytes_before "
    "free_bytes_after held_by".split()
)
_OF_SPEC = ("model", "device_map", "quantization", "hardware", "simulated", "spec")
_APART = "max_abs_diff kl_divergence top1_agreement".split()
_COUNTS = "peak_host_bytes n_resident n_offloaded n_missing n_quantized".split()
_COLUMN_DTYPES = dict.fromkeys(MATRIX_COLUMNS, "string") | dict.fromkeys(_COUNTS, "Int64")
_COLUMN_DTYPES |= dict.fromkeys(("load_seconds", "forward_seconds", *_APART, "quality_kl"), "float64")
_COLUMN_DTYPES |= {"simulated": "bool", "repeatable": "boolean"}
_FLOATS = ("float64", "float32", "float16", "bfloat16")
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
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=dtype) for name, dtype in _COLUMN_DTYPES.items()}
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
    """The full row: load, placement, answer and judgement. It is held against the twin's answer, and for the quality
    figure against the unquantized model's; a text says why there is none."""
    failure, table = measured.failure, measured.placement
    row = failed_row(plan.spec, failure) if failure else blank_row(plan.spec, "unchecked", "")
    row.update(load_seconds=measured.load_seconds, peak_host_bytes=measured.peak_bytes.get("cpu"))
    row["peak_device_bytes"] = _json({name: size for name, size in measured.peak_bytes.items() if name != "cpu"})
    row.update(free_bytes_before=_json(measured.free_before), free_bytes_after=_json(measured.free_after))
    row["held_by"] = _json([asdict(other) for other in measured.others])
    row["warnings"] = "\n".join(measured.notes) or None
    if table is not None:
        counts = table[table.kind != "quant_state"].drop_duplicates("tied_group").backing.value_counts()
        packed = table[(table.kind == "parameter") & (table.quantization != "none")]
        row.update(n_resident=int(counts.get("resident", 0)), n_offloaded=int(counts.get("offloaded", 0)))
        row.update(n_missing=int((table.backing == "none").sum()), n_quantized=len(packed))
    answer = None if measured.answer is None else Answer.from_bytes(measured.answer)
    proof = None
    if answer is not None:
        proof = _proof(answer, measured, twin)
        row["status"] = {True: "ok", False: "wrong_output", None: "unchecked"}[proof.proved]
        row.update({name: getattr(proof, name) for name in _APART}, reference=proof.reference or None)
        row.update(answer=answer.text or None, forward_seconds=answer.seconds, repeatable=answer.repeatable)
        plain = None if isinstance(unquantized, str) or answer.problem else unquantized.outputs
        if plain is not None and plain.shape == answer.outputs.shape:
            row["quality_kl"] = distance(answer.outputs, plain).kl_divergence
    row["reason"] = _reason(plan, measured, row, proof, twin)
    row["facts"] = _facts(plan, measured, answer)
    return row


def _json(value: object) -> str | None:
    return json.dumps(value, sort_keys=True) if value else None


def _proof(answer: Answer, measured: Measured, twin: Answer | str) -> Proof:
    if answer.problem:
        return Proof(False, answer.problem)
    if not isinstance(twin, str):
        return proof_of(answer, twin, exact=measured.exact, dtype=measured.dtype)
    if not answer.repeatable:
        return Proof(False, "two runs of the same input gave different answers")
    return Proof(None, twin)


def _facts(plan: Planned, measured: Measured, answer: Answer | None) -> dict[str, object]:
    """What a later comparison needs, as JSON values. `placed` are bytes by place (a device, `offloaded to disk`,
    `nowhere`), `map` the resolved device map, `sketch` the answer's, with the digest of its bits and its dtype;
    `checkpoint` changes when the model's files do."""
    facts: dict[str, object] = {"map": plan.resolved_map, "checkpoint": plan.fingerprint, "dtype": measured.dtype}
    facts["placed"] = {} if measured.placement is None else _placed_bytes(measured.placement)
    facts["causes"] = [finding.cause for finding in measured.causes]
    if answer is not None:
        facts["probe"] = answer.probe
        if not answer.problem:
            bits = answer.outputs.tobytes() + json.dumps(answer.tokens).encode()
            facts.update(sketch=sketch(answer.outputs), digest=hashlib.sha256(bits).hexdigest()[:16])
    return facts


def _placed_bytes(table: pd.DataFrame) -> dict[str, int]:
    """Bytes by place, each tied tensor once: the device it is on, where it is offloaded to, or nowhere."""
    once = table.drop_duplicates("tied_group")
    target = once["mapped_device"].map(lambda device: "offloaded" if pd.isna(device) else f"offloaded to {device}")
    places = once["device"].astype("object").where(once["backing"] == "resident", "nowhere")
    sums = once["nbytes"].groupby(places.mask(once["backing"] == "offloaded", target)).sum()
    return {str(place): int(size) for place, size in sorted(sums.items())}


def _reason(plan: Planned, measured: Measured, row: Row, proof: Proof | None, twin: Answer | str) -> str:
    """All sentences of a measured row, whose other columns are filled; `proof` is None where there is no answer."""
    table, spec, missing = measured.placement, plan.spec, measured.missing_keys
    said = [row["reason"] if proof is None else proof.reason]
    if spec.loader is not None and table is not None:
        of_twin = twin.dtype if isinstance(twin, Answer) else ""
        said.append(_ignored_map(spec, table, measured.free_before))
        if row["status"] != "ok" or measured.dtype != of_twin:  # a mix of dtypes is said only where it can matter
            said.append(_other_dtype(table, measured.dtype, of_twin))
    unfilled = isinstance(twin, Answer) and bool(twin.unfilled) and measured.answer is not None
    if measured.causes:
        said.append(f"Cause: {measured.causes[0].cause} ({measured.causes[0].title.rstrip('.')})")
    elif unfilled:
        said.append(f"Cause: {NEVER_LOADED.id} ({NEVER_LOADED.title.rstrip('.')})")
    asked, packed = spec.quantization, row["n_quantized"]
    if asked != "none" and packed is not None:
        layers = plan.n_linear or measured.n_linear
        said.append(f"asked {asked}, {packed} of {layers} linear layers are packed")
    said.append(measured.adapter)
    # Where the twin lacks values too, the sentence of the proof names them already.
    named = unfilled and proof is not None and proof.max_abs_diff is not None and row["repeatable"]
    if missing and not named:
        are = f"{len(missing)} tensors are" if len(missing) > 1 else "1 tensor is"
        harmless = ": a new head, or nothing that the answer needs" * (measured.failure is None)
        said.append(f"{are} not in the checkpoint and newly initialised, {missing[0]!r} among them{harmless}.")
    held = [str(other) for other in measured.others if other.device != "cpu" or row["status"] == "out_of_memory"]
    said += [plan.spilled, f"before the load, {'; '.join(held)}" if held else ""]
    return " ".join(sentence(one) for one in said if one)


def _ignored_map(spec: LoadSpec, table: pd.DataFrame, devices: Iterable[str]) -> str:
    """Says that a user's loader did not follow the map; `devices` are those of the machine. Empty where it may have."""
    lost_hooks = (table.backing == "none").any()  # weights that were offloaded, and then lost them
    if spec.device_map == "none" or not len(table) or lost_hooks:
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


def _other_dtype(table: pd.DataFrame, dtype: str, of_twin: str) -> str:
    """Names both dtypes where the model of a user's loader is not in that of its twin, or in several."""
    if of_twin and dtype != of_twin:
        return f"the loader's model is in {dtype}, and the same checkpoint, loaded as asked, in {of_twin}"
    plain = table[(table.kind == "parameter") & (table.quantization == "none")]
    dtypes = plain["dtype"].astype(str).str.removeprefix("torch.")
    counts = dtypes.value_counts()
    mixed = [name for name in counts.index if name in _FLOATS]
    if len(mixed) < 2:
        return ""
    rare, usual = mixed[-1], mixed[0]
    few = f"{counts[rare]} in {rare}, {plain.name[dtypes == rare].iloc[0]!r} first"
    return f"its parameters are in {len(mixed)} dtypes: {few}, the rest in {usual}"
