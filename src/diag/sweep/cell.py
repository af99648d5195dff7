"""What runs in a cell's own process: plan, load and ask, or be the twin. Everything in and out can be pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from diag.errors import DiagError, UnsupportedError
from diag.spec import LoadSpec
from diag.sweep.deaths import is_out_of_memory


@dataclass(frozen=True)
class Failure:
    """An error as text: the status it means, its class, its message, and why in a sentence."""

    status: str
    error_type: str
    error_text: str
    reason: str


@dataclass(frozen=True)
class Planned:
    """What a plan comes to, small enough to send home. `failure` is set where the load would not begin."""

    spec: LoadSpec
    fingerprint: str = ""
    nbytes: int = 0
    resolved_map: str | None = None
    packed: tuple[str, ...] = ()
    n_linear: int = 0
    spilled: str = ""
    failure: Failure | None = None


@dataclass(frozen=True)
class Survey:
    """The plans of several specs of one model, and the machine as the planning process found it."""

    plans: tuple[Planned, ...]
    free_memory: Mapping[Any, int]
    devices: tuple[str, ...]
    accelerator: str | None


@dataclass(frozen=True)
class Measured:
    """One cell: how the load went, where everything is, and the answer (numpy bytes) or the failure."""

    load_seconds: float | None = None
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    placement: pd.DataFrame | None = None
    answer: bytes | None = None
    exact: bool = True
    dtype: str = "float32"
    n_linear: int = 0
    notes: tuple[str, ...] = ()
    missing_keys: tuple[str, ...] = ()
    failure: Failure | None = None


def survey(request: tuple[tuple[LoadSpec, ...], Mapping[Any, int] | None]) -> Survey:
    """Plans each spec (all of one model and hardware); reads no weights."""
    from diag.machine import accelerator_name, device_names, free_memory, use_hardware

    specs, frozen = request
    use_hardware(None)
    free = dict(frozen) if frozen is not None else free_memory()
    devices, accelerator = tuple(device_names()), accelerator_name()
    return Survey(tuple(_plan(spec, free) for spec in specs), free, devices, accelerator)


def _plan(spec: LoadSpec, free: Mapping[Any, int]) -> Planned:
    from diag.planning import plan_load

    fingerprint = ""
    try:
        from diag.checkpoint import find_checkpoint

        checkpoint = find_checkpoint(spec.model)
        fingerprint = checkpoint.fingerprint
        plan = plan_load(spec, free)
    except Exception as error:
        return Planned(spec, fingerprint, failure=describe(error, "load_error"))
    text = None if plan.resolved_map is None else json.dumps(dict(sorted(plan.resolved_map.items())))
    return Planned(spec, fingerprint, checkpoint.nbytes, text, plan.packed, plan.n_linear, plan.spilled)


def measure(request: tuple[LoadSpec, Mapping[Any, int] | None]) -> Measured:
    """Loads one spec, tabulates it and asks its probe; a failure comes back as a value."""
    from diag import posix
    from diag.loading import load
    from diag.machine import accelerator_peaks
    from diag.planning import linear_layers
    from diag.probing import ask
    from diag.proof import main_dtype, runs_cpu_kernels, tokenizer_folder
    from diag.tensors import placement

    spec, free = request
    before = posix.host_bytes()
    outcome = load(spec, free_memory=free)
    if outcome.model is None:
        assert outcome.error is not None
        return Measured(peak_bytes=dict(outcome.peak_bytes), notes=outcome.notes,
                        failure=describe(outcome.error, "load_error"))  # fmt: skip
    notes = list(outcome.notes)
    table = placement(outcome.model)
    answer, failure = None, None
    try:
        answer = ask(outcome.model, spec.probe, tokenizer_folder(spec), notes).to_bytes()
    except Exception as error:
        failure = describe(error, "unchecked" if isinstance(error, DiagError) else "forward_error")
    peaks = {**outcome.peak_bytes, **accelerator_peaks()}
    peaks["cpu"] = max(outcome.peak_bytes.get("cpu", 0), posix.peak_host_bytes() - before)
    return Measured(
        outcome.seconds, peaks, table, answer, runs_cpu_kernels(outcome.model), main_dtype(outcome.model),
        len(linear_layers(outcome.model)), tuple(notes), outcome.missing_keys, failure,
    )  # fmt: skip


def be_twin(request: tuple[LoadSpec, tuple[str, ...]]) -> bytes | str:
    """The twin's answer as bytes, or in a sentence why there is none."""
    from diag.proof import reference_answer

    answer = reference_answer(*request)
    return answer if isinstance(answer, str) else answer.to_bytes()


def describe(error: BaseException, otherwise: str) -> Failure:
    """Which status an error means, and its text; `otherwise` where it is neither a refusal nor out of memory."""
    reason = getattr(error, "why", "") or _first_line(error)
    status = otherwise
    if is_out_of_memory(error):
        status = "out_of_memory"
    elif isinstance(error, UnsupportedError):
        status = "unsupported"
    return Failure(status, type(error).__name__, str(error), reason)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
