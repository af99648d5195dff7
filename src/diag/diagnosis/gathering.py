"""From what a person hands over to Evidence: the model's state, the exception's frames, the text, the inputs.

Each reader and its libraries are imported where they are needed: a text alone needs the standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from diag.diagnosis.evidence import Evidence
from diag.diagnosis.explain import read_reports
from diag.diagnosis.ranking import deciding_trace
from diag.values.finding import Subject

if TYPE_CHECKING:
    import pandas as pd

    from diag.models.snapshot import Snapshot


def model_nearby(error: BaseException) -> object:
    """The model in the exception's frames, unless it was half built: then it shows nothing."""
    if error.__traceback__ is None:
        return None
    from diag.diagnosis.evidence.frames import model_in, report_of
    from diag.diagnosis.evidence.texts import needs_value
    from diag.diagnosis.evidence.trace import Trace

    trace = Trace(report_of(error))
    half_built = trace.loading and not trace.calls("forward") and not needs_value(str(error))
    return None if half_built else model_in(error)


def gather(
    subject: Subject,
    snapshot: Snapshot | None,
    error: BaseException | None,
    text: str | None,
    table: pd.DataFrame | None,
) -> tuple[Evidence, list[str]]:
    """Everything that rules may use, and in words what was looked at."""
    e, looked_at = Evidence(spec=subject.spec), list[str]()
    if error is not None:
        from diag.diagnosis.evidence.frames import report_of

        alone = os.environ.get("WORLD_SIZE", "1") in ("", "1")
        e = replace(e, trace=deciding_trace(report_of(error)), live=True, distributed=not alone)
    elif text is not None:
        e = replace(e, trace=deciding_trace(read_reports(text)[0]))
    if snapshot is not None:
        e = _with_model(e, snapshot)
        looked_at.append(f"{len(e.rows)} tensors of {type(subject.model).__name__} and their hooks")
        looked_at += e.facts.examined if e.facts else map(str, snapshot.unreadable)
    elif table is not None:
        from diag.diagnosis.evidence.lacking import rows_of, with_state

        e = with_state(e, rows_of(table), None)
        looked_at.append(f"a placement table of {len(e.rows)} tensors")
    if error is not None:
        from diag.diagnosis.evidence.frames import locate
        from diag.diagnosis.evidence.handling import handling_of

        e = replace(e, site=locate(error, snapshot) if snapshot is not None else None)
        e = replace(e, handling=handling_of(e))
        looked_at.append(f"{type(error).__name__} and its frames")
    elif text is not None:
        looked_at.append("the text")
    if subject.inputs is not None:
        given = tuple(_devices(subject.inputs))
        on_meta = tuple(name for name, device in given if device == "meta")
        e = replace(e, inputs_on_meta=on_meta, inputs=given)
        looked_at.append("the inputs")
    return e, looked_at


def _with_model(e: Evidence, snapshot: Snapshot) -> Evidence:
    from diag.diagnosis.evidence.facts import Source, facts_of, rows_of_snapshot
    from diag.diagnosis.evidence.lacking import with_state
    from diag.loading.origin import files_on_this_machine, spec_of
    from diag.models.entries import Unreadable

    if snapshot.is_bundle:
        return with_state(e, rows_of_snapshot(snapshot), None)
    spec = e.spec or spec_of(snapshot.root)
    try:
        source: Source = files_on_this_machine(snapshot.root, spec)
    except Exception as error:  # a config that raises
        source = Unreadable.because("where the model came from", error)
    rows = rows_of_snapshot(snapshot)
    return with_state(replace(e, spec=spec), rows, facts_of(snapshot, rows, source))


def _devices(inputs: object, path: str = "inputs") -> list[tuple[str, str]]:
    import torch

    if isinstance(inputs, torch.Tensor):
        return [(path, str(inputs.device))]
    if isinstance(inputs, Mapping):
        return [one for key, value in inputs.items() for one in _devices(value, str(key))]
    if isinstance(inputs, (list, tuple)):
        return [one for n, value in enumerate(inputs) for one in _devices(value, f"{path}[{n}]")]
    return []
