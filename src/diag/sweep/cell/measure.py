"""What runs in a cell's own process: look, fetch, plan, load and ask, or be the twin. All in and out can be pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from diag.errors import DiagError, LoaderError, UnsupportedError
from diag.loading.footprint import NOTHING, Packed
from diag.sweep.isolate.deaths import is_out_of_memory
from diag.values.spec import LoadSpec
from diag.values.text import first_line


@dataclass(frozen=True)
class Failure:
    """An error as text: the status it means, its class, its message, and why in a sentence."""

    status: str
    error_type: str
    error_text: str
    reason: str


@dataclass(frozen=True)
class Planned:
    """What a plan comes to, small enough to send home. `failure` is set where the load would not begin.

    `fingerprint` changes with the files of checkpoint, adapter and saved request, `loader_fingerprint` with the file
    of the user's loader or probe. `nbytes` is the size of the weight files, `placed` the bytes per device that the
    map places there, `written` the bytes that offloading copies to disk.
    """

    spec: LoadSpec
    fingerprint: str = ""
    nbytes: int = 0
    resolved_map: str | None = None
    packed: Packed = NOTHING
    n_linear: int = 0
    spilled: str = ""
    failure: Failure | None = None
    loader_fingerprint: str = ""
    placed: Mapping[str, int] = field(default_factory=dict)
    written: int = 0


@dataclass(frozen=True)
class Survey:
    """The plans of several specs of one model, and the machine as the planning process found it."""

    plans: tuple[Planned, ...]
    free_memory: Mapping[Any, int]
    devices: tuple[str, ...]
    accelerator: str | None


@dataclass(frozen=True)
class Ask:
    """One cell's request: the spec, the memory that planning may count on, hub models' folders, and what to pack."""

    spec: LoadSpec
    free: Mapping[Any, int] | None = None
    folders: Mapping[str, str] = field(default_factory=dict)
    packed: Packed = NOTHING


@dataclass(frozen=True)
class Measured:
    """One cell: how the load went, where everything is, and the answer (numpy bytes) or the failure.

    `causes` are what a diagnosis of the model or of its error says, first cause first, each with its title.
    `adapter` says in a sentence whether the adapter changes the answer. `free_before` and `free_after` are bytes by
    device, `others` the processes that held memory beside this one.
    """

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
    packed: Packed = NOTHING
    causes: tuple[tuple[str, str], ...] = ()
    adapter: str = ""
    free_before: Mapping[str, int] = field(default_factory=dict)
    free_after: Mapping[str, int] = field(default_factory=dict)
    others: tuple[Any, ...] = ()


def look(specs: tuple[LoadSpec, ...]) -> Any:
    """The check before the first cell, in a process of its own, so that nothing it does can hang the caller."""
    from diag.sweep.preflight import look_before

    return look_before(specs)


def fetch(model: str) -> str | Failure:
    """Downloads a hub model into the cache; its snapshot folder, or why that failed."""
    from diag.loading.checkpoint import hub

    try:
        return str(hub.fetch(model))
    except Exception as error:
        return describe(error, "load_error")


def outline(request: tuple[str, str]) -> str | Failure:
    """A hub model's settings and headers below a folder, enough to plan it; or why that failed. `request`: both."""
    from pathlib import Path

    from diag.loading.checkpoint import hub

    model, folder = request
    try:
        return str(hub.outline(model, Path(folder)))
    except Exception as error:
        return describe(error, "load_error")


def survey(request: tuple[Any, ...]) -> Survey:
    """Plans each spec (all of one model and hardware); reads no weights. `request`: specs, free memory, hub folders."""
    from diag.loading.checkpoint.find import pin
    from diag.machine.accelerators import accelerator_name, device_names, free_memory, use_hardware

    specs, frozen, *folders = request
    pin(folders[0] if folders else {})
    use_hardware(None)
    free = dict(frozen) if frozen is not None else free_memory()
    devices, accelerator = tuple(device_names()), accelerator_name()
    return Survey(tuple(_plan(spec, free) for spec in specs), free, devices, accelerator)


def _plan(spec: LoadSpec, free: Mapping[Any, int]) -> Planned:
    from diag.loading.checkpoint.find import find_checkpoint
    from diag.loading.needs import check_needs
    from diag.loading.planning import plan_load
    from diag.sweep.cell import ownfiles

    fingerprint, own = "", ""
    try:
        checkpoint = find_checkpoint(spec.model)
        fingerprint = checkpoint.fingerprint + ownfiles.data_fingerprint(spec)
        own = ownfiles.code_fingerprint(spec)
        plan = plan_load(spec, free)
        written = ownfiles.bytes_written(plan)
        check_needs(plan, written)
    except Exception as error:
        return Planned(spec, fingerprint, failure=describe(error, "load_error"), loader_fingerprint=own)
    text = None if plan.resolved_map is None else json.dumps(dict(sorted(plan.resolved_map.items())))
    placed = {ownfiles.device_text(device): size for device, size in (plan.nbytes or {}).items()}
    return Planned(spec, fingerprint, checkpoint.nbytes, text, plan.packed, plan.n_linear, plan.spilled, None, own,
                   placed, written)  # fmt: skip


def measure(ask: Ask) -> Measured:
    """Loads one spec, tabulates it and asks its probe; a failure comes back as a value."""
    from diag.loading.checkpoint.find import pin
    from diag.machine.accelerators import use_hardware
    from diag.sweep.cell import neighbours

    pin(ask.folders)
    use_hardware(ask.spec.hardware)
    before, others = neighbours.free_by_device(), neighbours.others()
    measured = _measure(ask)
    return replace(measured, free_before=before, free_after=neighbours.free_by_device(), others=others)


def _measure(ask: Ask) -> Measured:
    from diag.loading.footprint import linear_layers, packed_layers
    from diag.loading.recipe import load
    from diag.machine import processes as posix
    from diag.machine.accelerators import accelerator_peaks
    from diag.models.tensors import placement
    from diag.proving.probing import ask as ask_model
    from diag.proving.proof import main_dtype, runs_cpu_kernels, tokenizer_folder
    from diag.sweep.cell import naming

    spec = ask.spec
    before = posix.host_bytes()
    outcome = load(spec, free_memory=ask.free)
    if outcome.model is None:
        assert outcome.error is not None
        return _not_loaded(outcome)
    model, notes = outcome.model, list(outcome.notes)
    table = placement(model)
    answer: Any = None
    error: Exception | None = None
    failure: Failure | None = None
    try:
        answer = ask_model(model, spec.probe, tokenizer_folder(spec), notes)
    except Exception as raised:
        if isinstance(raised, DiagError):  # the request or the probe, and not the model
            failure = described(raised, "unchecked", spec)
        else:
            error, failure = raised, described(raised, "forward_error", spec)
    peaks = {**outcome.peak_bytes, **accelerator_peaks()}
    peaks["cpu"] = max(outcome.peak_bytes.get("cpu", 0), posix.peak_host_bytes() - before)
    suspicious = spec.loader is not None or error is not None or (answer is not None and bool(answer.problem))
    causes = naming.never_loaded(model, outcome.missing_keys)
    causes += naming.causes_of(model, error, spec) if suspicious else ()
    return Measured(
        outcome.seconds, peaks, table, None if answer is None else answer.to_bytes(), runs_cpu_kernels(model),
        main_dtype(model), len(linear_layers(model)), tuple(notes), outcome.missing_keys, failure,
        packed_layers(model), causes, naming.adapter_effect(model, spec, answer),
    )  # fmt: skip


def _not_loaded(outcome: Any) -> Measured:
    from diag.sweep.cell import naming

    failure = described(outcome.error, "load_error", outcome.spec)
    named = failure.status == "unsupported" or isinstance(outcome.error, LoaderError)
    causes = () if named else naming.causes_of(None, outcome.error, outcome.spec)
    return Measured(peak_bytes=dict(outcome.peak_bytes), notes=outcome.notes, failure=failure, causes=causes)


def be_twin(ask: Ask) -> bytes | str:
    """The twin's answer as bytes, or in a sentence why there is none."""
    from diag.loading.checkpoint.find import pin
    from diag.proving.proof import reference_answer

    pin(ask.folders)
    answer = reference_answer(ask.spec, ask.packed)
    return answer if isinstance(answer, str) else answer.to_bytes()


def described(error: BaseException, otherwise: str, spec: LoadSpec) -> Failure:
    """As `describe`, and where in the user's own loader or probe it happened."""
    from diag.sweep.cell.ownfiles import where_raised

    failure = describe(error, otherwise)
    where = where_raised(error, spec)
    return replace(failure, reason=f"{_ended(failure.reason)} At {where}.") if where else failure


def describe(error: BaseException, otherwise: str) -> Failure:
    """Which status an error means, and its text; `otherwise` where it is neither a refusal nor out of memory.

    The reason of what is no rule ends with what to do next.
    """
    reason = getattr(error, "why", "") or first_line(error)
    if isinstance(error, DiagError) and error.what not in reason:
        reason = f"{_ended(error.what)} {reason}" if reason else error.what
    status = otherwise
    if is_out_of_memory(error):
        status = "out_of_memory"
    elif isinstance(error, UnsupportedError):
        status, reason = "unsupported", error.why or error.what
    if isinstance(error, DiagError) and error.next_step and status != "unsupported":
        reason = f"{_ended(reason)} Next: {error.next_step}"
    return Failure(status, type(error).__name__, str(error), reason)


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
