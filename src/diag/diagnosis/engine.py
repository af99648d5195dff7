"""diagnose(): from any mix of a model, an exception, a text, a table, a spec and inputs to findings.

Evidence in this order: the state of the model, then the exception's own frames, then text. Reads only: no forward
pass, nothing moved, and no frame, tensor or exception is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diag.diagnosis.evidence.record import Evidence, rows_of
from diag.diagnosis.explain import explain_text, read_reports
from diag.diagnosis.holders import with_holders
from diag.diagnosis.rules_error import judge
from diag.diagnosis.rules_state import state_findings
from diag.errors import DiagError
from diag.values.finding import Finding, Findings, Subject
from diag.values.outcome import LoadOutcome
from diag.values.spec import LoadSpec


def diagnose(
    model: Any = None,
    *,
    error: BaseException | None = None,
    text: str | None = None,
    placement: Any = None,
    spec: LoadSpec | None = None,
    inputs: Any = None,
) -> Findings:
    """What is wrong, with which tensors, and why; no findings means healthy, and an offloaded model is healthy.

    `model` is a model, a pipeline, or a LoadOutcome; without one it is taken from the exception's frames. `error` is
    the exception that was caught, `text` a pasted error, log or HTTP body, `placement` a table that was kept, `spec`
    how the model was loaded, `inputs` what it was called with. Leaves all of them as they are. Reads samples of the
    values, and of the checkpoint where it is on this machine; nothing is downloaded. Raises DiagError when there is
    nothing to look at.

    >>> diagnose(text="RuntimeError: CUDA out of memory.")[0].cause
    'out-of-memory'
    """
    if isinstance(model, LoadOutcome):
        model, error, spec = model.model, error or model.error, spec or model.spec
    if isinstance(model, BaseException):
        model, error = None, model
    _check_something(model, error, text, placement)
    if text is not None and model is None and error is None and placement is None:
        return explain_text(text)
    nearby = _model_in(error) if model is None and placement is None else None
    evidence, looked_at = _gather(model if nearby is None else nearby, error, text, placement, spec, inputs)
    judged = judge(evidence, state_findings(evidence))
    if nearby is not None and all(one.cause == "unknown" for one in judged):  # a bystander: it rules nothing out
        evidence, without = _gather(None, error, text, placement, spec, inputs)
        judged, looked_at, nearby = judge(evidence, ()), (f"{looked_at[0]}, all with their data", *without), None
    model = nearby if model is None else model
    found = with_holders(judged, evidence.spec)
    return Findings(_with_fixes(found, model, evidence.spec), looked_at=looked_at,
                    subject=Subject(model, evidence.spec, inputs))  # fmt: skip


def _check_something(model: Any, error: Any, text: Any, placement: Any) -> None:
    if all(one is None for one in (model, error, text, placement)):
        raise DiagError(
            "there is nothing to diagnose.",
            why="neither a model, an error, a text nor a placement table was given.",
            next_step="diag.diagnose(model), diag.diagnose(error=exc) or diag.diagnose(text='…').",
        )


def _model_in(error: BaseException | None) -> Any:
    if error is None or error.__traceback__ is None:
        return None
    from diag.diagnosis.evidence.frames import model_in, report_of
    from diag.diagnosis.evidence.texts import needs_value
    from diag.diagnosis.evidence.trace import Trace

    reading = Trace(report_of(error))
    half_built = reading.loading and not reading.calls("forward") and not needs_value(str(error))
    return None if half_built else model_in(error)


def _gather(
    model: Any, error: BaseException | None, text: str | None, placement: Any, spec: LoadSpec | None, inputs: Any
) -> tuple[Evidence, tuple[str, ...]]:
    evidence, looked_at = Evidence(spec=spec), []
    if placement is not None and model is None:
        evidence = replace(evidence, rows=rows_of(placement))
        looked_at.append(f"a placement table of {len(evidence.rows)} tensors")
    if model is not None:
        evidence = _with_model(evidence, model)
        looked_at.append(f"{len(evidence.rows)} tensors of {type(model).__name__} and their hooks")
        looked_at += evidence.facts.examined if evidence.facts else ()
    if error is not None:
        evidence = _with_error(evidence, error, model)
        looked_at.append(f"{type(error).__name__} and its frames")
    elif text is not None:
        evidence = replace(evidence, report=read_reports(text)[0])
        looked_at.append("the text")
    if inputs is not None:
        given = tuple(_devices(inputs))
        on_meta = tuple(name for name, device in given if device == "meta")
        evidence = replace(evidence, inputs_on_meta=on_meta, inputs=given)
        looked_at.append("the inputs")
    return evidence, tuple(looked_at)


def _with_model(evidence: Evidence, model: Any) -> Evidence:
    from torch import nn

    from diag.diagnosis.evidence.facts import facts_of, with_nested_maps
    from diag.models.tensors import backing_of, placement

    table = placement(model)
    if not isinstance(model, nn.Module):  # a pipeline: its parts are tabulated under prefixes
        return replace(evidence, rows=rows_of(table))
    rows = with_nested_maps(rows_of(table, backing_of(model)), model)
    spec = evidence.spec or _spec_of(model)
    return replace(evidence, rows=rows, facts=facts_of(model, rows, spec), spec=spec)


def _spec_of(model: Any) -> LoadSpec | None:
    try:
        from diag.loading.recipe import spec_of
    except ImportError:  # an older stack, where loading does not work
        return None
    return spec_of(model)


def _with_error(evidence: Evidence, error: BaseException, model: Any) -> Evidence:
    from diag.diagnosis.evidence.frames import locate_in, report_of
    from diag.models.tensors import parts_of

    trace = locate_in(error, parts_of(model)) if model is not None else None
    return replace(evidence, report=report_of(error), trace=trace, live=True, distributed=_is_distributed())


def _is_distributed() -> bool:
    import os

    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def _devices(inputs: Any, path: str = "inputs") -> list[tuple[str, str]]:
    import torch

    if isinstance(inputs, torch.Tensor):
        return [(path, str(inputs.device))]
    if isinstance(inputs, Mapping):
        return [one for key, value in inputs.items() for one in _devices(value, str(key))]
    if isinstance(inputs, (list, tuple)):
        return [one for n, value in enumerate(inputs) for one in _devices(value, f"{path}[{n}]")]
    return []


def _with_fixes(found: list[Finding], model: Any, spec: LoadSpec | None) -> list[Finding]:
    from diag.diagnosis.mending.plans import fixes_for

    return [replace(one, fixes=fixes_for(one, model, spec)) for one in found]
