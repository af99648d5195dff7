"""In a process of its own: one load, where everything went, and its answer; or the answer of its twin."""

import contextlib
import io
from dataclasses import replace

from torch import nn

from diag.diagnosis.causes.uninitialised_values import CAUSE as NEVER_LOADED
from diag.errors import DiagError, LoaderError
from diag.loading.checkpoint.find import pin
from diag.loading.footprint import linear_layers, packed_layers
from diag.loading.recipe import load
from diag.machine import processes
from diag.machine.accelerators import accelerator_peaks, use_hardware
from diag.models.snapshot import take
from diag.models.table import placement
from diag.proving.probing import Answer, ask
from diag.proving.proof import distance, runs_cpu_kernels
from diag.proving.twin import answer_of_twin, main_dtype, missing_from_body, plan_of_twin, tokenizer_folder
from diag.sweep.cell import neighbours
from diag.sweep.cell.ownfiles import where_raised
from diag.sweep.cell.records import Failure, Measured, Request, failure_of
from diag.values.finding import Finding
from diag.values.outcome import LoadOutcome
from diag.values.spec import LoadSpec
from diag.values.text import sentence


def measure(request: Request) -> Measured:
    """Loads one spec, tabulates it and asks its probe; a failure comes back as a value."""
    (spec,) = request.specs
    pin(request.folders)
    use_hardware(spec.hardware)
    before, others = neighbours.free_by_device(), neighbours.others()
    host_bytes = processes.host_bytes()
    outcome = load(spec, free_memory=request.free)
    if outcome.error is None:
        measured = _loaded(outcome, host_bytes)
    else:
        failure = _failure_at(outcome.error, "load_error", spec)
        is_named = failure.status == "unsupported" or isinstance(outcome.error, LoaderError)
        found = () if is_named else _causes_of(None, outcome.error, spec)
        measured = Measured(peak_bytes=dict(outcome.peak_bytes), notes=outcome.notes, failure=failure, causes=found)
    return replace(measured, free_before=before, free_after=neighbours.free_by_device(), others=others)


def twin_answer(request: Request) -> bytes | str:
    """The twin's answer as bytes, or in a sentence why there is none."""
    pin(request.folders)
    spec, packed = request.specs[0], request.packed
    answer = answer_of_twin(spec, packed, plan_of_twin(spec, packed))
    return answer if isinstance(answer, str) else answer.to_bytes()


def _loaded(outcome: LoadOutcome, host_bytes: int) -> Measured:
    """Asks the model that was loaded; `host_bytes` are what this process held before the load."""
    spec, model, notes = outcome.spec, outcome.model, list(outcome.notes)
    table = placement(model)
    answer, error, failure = None, None, None
    try:
        answer = ask(model, spec.probe, tokenizer_folder(spec), notes)
    except DiagError as raised:  # the request or the probe is at fault, and not the model
        failure = _failure_at(raised, "unchecked", spec)
    except Exception as raised:
        error, failure = raised, _failure_at(raised, "forward_error", spec)
    peaks = {**outcome.peak_bytes, **accelerator_peaks()}
    peaks["cpu"] = max(outcome.peak_bytes.get("cpu", 0), processes.peak_host_bytes() - host_bytes)
    missing = missing_from_body(model, outcome.missing_keys)
    found: tuple[Finding, ...] = (NEVER_LOADED.finding("shown", missing),) if missing else ()
    if spec.loader is not None or error is not None or (answer is not None and answer.problem):
        found += _causes_of(model, error, spec)
    adapter = "" if answer is None or spec.adapter is None else _adapter_effect(model, spec, answer)
    given = None if answer is None else answer.to_bytes()
    packed, n_linear = packed_layers(model), len(linear_layers(model))
    seen = Measured(outcome.seconds, peaks, table, given, runs_cpu_kernels(take(model)), main_dtype(model), n_linear)
    seen = replace(seen, notes=tuple(notes), missing_keys=outcome.missing_keys, packed=packed, adapter=adapter)
    return replace(seen, failure=failure, causes=found)


def _causes_of(model: nn.Module | None, error: BaseException | None, spec: LoadSpec) -> tuple[Finding, ...]:
    """What a diagnosis finds wrong, the first cause first; nothing for a healthy model, and where a diagnosis fails. A
    cell's row must not depend on whether the diagnosis of it works."""
    from diag.diagnosis.engine import diagnose  # most cells are healthy and never need it

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = diagnose(model, error=error, spec=spec)
    except Exception:
        return ()
    return tuple(one for one in found if one.severity != "info" and not one.is_unknown)


def _failure_at(error: BaseException, otherwise: str, spec: LoadSpec) -> Failure:
    """As `failure_of`, and where in the user's own loader or probe it happened."""
    failure, where = failure_of(error, otherwise), where_raised(error, spec)
    return replace(failure, reason=f"{sentence(failure.reason)} At {where}.") if where else failure


def _adapter_effect(model: nn.Module, spec: LoadSpec, answer: Answer) -> str:
    """One sentence: whether the adapter changes the answer to the probe. Empty where the answer is none."""
    without_adapter = getattr(model, "disable_adapter", None)
    if answer.problem or without_adapter is None:
        return ""
    try:
        with without_adapter():
            without = ask(model, spec.probe, tokenizer_folder(spec))
    except Exception as error:
        return f"Whether the adapter changes the answer is not known: {type(error).__name__}: {error}"
    if without.outputs.shape != answer.outputs.shape:
        return "The adapter changes the shape of the answer."
    apart = distance(answer.outputs, without.outputs)
    if apart.max_abs_diff == 0:
        return "The adapter changes nothing: with and without it the answer is the same, bit for bit."
    text = " and the generated text" if answer.tokens != without.tokens else ""
    size = f"by up to {apart.max_abs_diff:.3g} (KL {apart.kl_divergence:.3g} nats)"
    return f"The adapter changes the answer{text}: {size}."
