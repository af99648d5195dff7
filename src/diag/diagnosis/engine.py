"""diagnose(): from any mix of a model, an exception, a text, a table, a spec and inputs to findings.

Evidence in this order: the state of the model, then the exception's own frames, then text. Reads only: no forward
pass, nothing moved, and no frame, tensor or exception is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from diag.diagnosis import causes
from diag.diagnosis.evidence import Evidence, ModelFacts
from diag.diagnosis.explain import certainty_of, explain_text
from diag.diagnosis.gathering import gather, model_nearby
from diag.diagnosis.ranking import Candidate, rank
from diag.errors import DiagError
from diag.values.finding import CERTAINTIES, UNKNOWN, Finding, Findings, Subject
from diag.values.outcome import LoadOutcome
from diag.values.spec import LoadSpec
from diag.values.text import first_line, sentence

if TYPE_CHECKING:
    import pandas as pd

    from diag.models.snapshot import Snapshot


def diagnose(
    model: object = None,
    *,
    error: BaseException | None = None,
    text: str | None = None,
    placement: pd.DataFrame | None = None,
    spec: LoadSpec | None = None,
    inputs: object = None,
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
        outcome = model
        model, error, spec = outcome.model, error or outcome.error, spec or outcome.spec
    if isinstance(model, BaseException):
        model, error = None, model
    _check_something(model, error, text, placement)
    if text is not None and model is None and error is None and placement is None:
        return explain_text(text)
    nearby = model_nearby(error) if error is not None and model is None and placement is None else None
    subject = Subject(model if nearby is None else nearby, spec, inputs)
    snapshot = _read_once(subject.model)
    evidence, looked_at = gather(subject, snapshot, error, text, placement)
    found = _judged(evidence)
    if nearby is not None and all(one.is_unknown for one in found):  # a bystander: it rules nothing out
        subject, snapshot = replace(subject, model=None), None
        evidence, without = gather(subject, snapshot, error, text, placement)
        found, looked_at = _judged(evidence), [f"{looked_at[0]}, all with their data", *without]
    subject = replace(subject, spec=evidence.spec)
    return Findings(_with_fixes(found, snapshot, evidence.spec), looked_at=looked_at, subject=subject)


def _check_something(*given: object) -> None:
    if all(one is None for one in given):
        raise DiagError(
            "there is nothing to diagnose.",
            why="neither a model, an error, a text nor a placement table was given.",
            next_step="diag.diagnose(model), diag.diagnose(error=exc) or diag.diagnose(text='…').",
        )


def _read_once(model: object) -> Snapshot | None:
    """The model as it is now, for the whole diagnosis."""
    if model is None:
        return None
    from diag.models.snapshot import take

    return take(model)


# --- judge it --------------------------------------------------------------------------------------------------


def _judged(e: Evidence) -> list[Finding]:
    """The findings of the state and of the error, the cause that explains the error first."""
    state = sorted(_from_state(e), key=lambda one: (CERTAINTIES.index(one.certainty), causes.get(one.cause).rank))
    e = replace(e, state=tuple(state))
    found = _explained(e, e.trace.report.raised != ()) if e.trace is not None else state
    return _with_what_is_behind(found, e)


def _from_state(e: Evidence) -> list[Finding]:
    if not (e.rows or e.inputs_on_meta):
        return []
    held = {**vars(e.facts or ModelFacts()), **vars(e)}
    found: list[Finding] = []
    for file in causes.FILES:
        looks_at = file.cause.looks_at
        if file.from_state is not None and (not looks_at or any(map(held.__getitem__, looks_at))):
            found += file.from_state(e)
    return found


def _explained(e: Evidence, raised: bool) -> list[Finding]:
    candidates = [one for one in rank(e) if _is_possible(one, e)]
    acts = [one for one in candidates if one.cause.is_act and one.is_specific and not _is_symptom(one, e)]
    explained = [one for one in e.state if _explains(one, e)]
    rest = [one for one in e.state if one not in explained]
    named = e.site is not None and any(set(one.tensors) & set(e.site.tensors) for one in explained)
    first = [_said(acts[0], e, [acts[0]])] if acts and not named else []
    found = [*first, *explained, *_from_error(e)]
    if not found:
        near = [one for one in candidates[:3] if one is candidates[0] or one.points * 2 > candidates[0].points]
        found = [_said(one, e, candidates) for one in near]
    if not found and raised:  # what the model shows beside it is not what was raised
        found = [_unknown(e, beside=bool(rest))]
    return _once([*found, *rest]) or [_unknown(e)]


def _from_error(e: Evidence) -> list[Finding]:
    from diag.diagnosis.evidence.handling import meeting_of

    elsewhere = any(one.tensors and causes.get(one.cause).puts_elsewhere for one in e.state)
    e = replace(e, meeting=None if elsewhere else meeting_of(e))
    return [one for file in causes.FILES if file.from_error is not None for one in file.from_error(e)]


def _with_what_is_behind(found: list[Finding], e: Evidence) -> list[Finding]:
    """Puts first what stands behind the first finding, where that is known and not said already."""
    if not found:
        return found
    e = replace(e, memory_ran_short=causes.get(found[0].cause).memory_ran_short)
    behind = [one for file in causes.FILES if file.behind and (one := file.behind(found[0], e)) is not None]
    return [*(one for one in behind if all(one.cause != other.cause for other in found)), *found]


def _once(findings: Sequence[Finding]) -> list[Finding]:
    """Without findings that say of the same tensors what an earlier one says."""
    kept: dict[tuple[str, tuple[str, ...]], Finding] = {}
    for finding in findings:
        same = [key for key in kept if key[0] == finding.cause and (not finding.tensors or not key[1])]
        if not same:
            kept.setdefault((finding.cause, finding.tensors), finding)
    return list(kept.values())


def _is_possible(one: Candidate, e: Evidence) -> bool:
    """Whether the state allows what a text says; a text that only one place raises stays."""
    if one.points >= one.cause.enough or not one.cause.needs:
        return True
    if one.cause.needs == "processes":
        return e.distributed
    from_source = e.trace is not None and "While copying the parameter" in e.trace.report.text  # the other side is meta
    if not e.rows or from_source:
        return True
    shown = {"orphans": e.orphans, "offloaded": e.offloaded or e.orphans, "broken": e.state}
    return bool(shown[one.cause.needs])


def _is_symptom(one: Candidate, e: Evidence) -> bool:
    """`.to()` on a model whose weights are gone is not what went wrong with it."""
    lost = (f for f in e.state if f.certainty == "shown" and causes.get(f.cause).loses_data)
    return one.cause.follows_loss and any(lost)


def _explains(finding: Finding, e: Evidence) -> bool:
    """Whether a finding of the state can be behind this error."""
    cause, trace = causes.get(finding.cause), e.trace
    if trace is None or not cause.explains_errors:
        return False
    if cause.is_of_quantization:
        return trace.says("bitsandbytes") or trace.passes("bitsandbytes") or trace.is_about_meta
    if trace.is_about_meta or trace.mixed:
        return True
    last = trace.report.last
    if last is None or last.name not in ("KeyError", "FileNotFoundError", "ValueError", "RuntimeError"):
        return False
    stranded = {row.name for row in e.orphans} & set(finding.tensors)
    named = any(name in last.message for name in finding.tensors)
    return named or bool(stranded and trace.passes("/torch/", "/accelerate/", "/transformers/"))


# --- say it ----------------------------------------------------------------------------------------------------


def _said(one: Candidate, e: Evidence, among: Sequence[Candidate]) -> Finding:
    """The finding of a candidate; what only a message says is likely at best, since the state shows nothing of it."""
    from diag.diagnosis.evidence.texts import named_tensors

    certainty = certainty_of(one, among)
    assert e.trace is not None
    tensors = named_tensors(e.trace.message) or (e.site.tensors if e.site else ())
    settled = e.live and certainty == "likely" and one.is_specific
    return one.cause.finding(
        certainty,
        tensors,
        module=e.site.module if e.site else "",
        because=tuple(map(sentence, one.says)),
        check=() if settled else (one.cause.check,),
        silent=False,
    )


def _unknown(e: Evidence, beside: bool = False) -> Finding:
    last = e.trace.report.last if e.trace else None
    said = f": {first_line(last.message)}" if last and last.message.strip() else ""
    seen = f"The error is {last.name}{said}" if last else "No error."
    state = "Every tensor of the model has its data." if e.rows and not e.orphans else "No model was given."
    if beside:
        state = "It says nothing of devices or weights: what the model shows below is not its cause."
    elif e.orphans:
        state = "It says nothing of devices or weights."
    check = ("Give the whole traceback, the lines printed while loading, or the model itself.",)
    where = e.site.module if e.site else ""
    return causes.get(UNKNOWN).finding("possible", module=where, because=(seen, state), silent=False, check=check)


def _with_fixes(found: list[Finding], snapshot: Snapshot | None, spec: LoadSpec | None) -> list[Finding]:
    if not found:
        return []
    from diag.diagnosis.mending.plans import fixes_for
    from diag.diagnosis.situation import Situation

    situation = Situation(snapshot, spec)
    return [replace(one, fixes=fixes_for(one, situation)) for one in found]
