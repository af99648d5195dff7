"""Rules on an error beside the state: what the exception adds, and what the state rules out. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from diag.diagnosis.causes import PRECEDENCE
from diag.diagnosis.evidence.record import Evidence, Trace
from diag.diagnosis.evidence.report import Report
from diag.diagnosis.evidence.texts import is_copy_out_of_meta, is_value_of_meta, mixed_devices, named_tensors
from diag.diagnosis.evidence.trace import Trace as Reading
from diag.diagnosis.making import make
from diag.diagnosis.mending.byhand import LIBRARY_MADE
from diag.diagnosis.ranking import Candidate, rank
from diag.diagnosis.reading.point import sentence
from diag.diagnosis.reading.readings import deciding
from diag.diagnosis.rules_mixed import apart
from diag.values.finding import Finding

_META = re.compile(r"(?<![\w/-])meta(?![\w/-])", re.IGNORECASE)
_SPECIFIC = 10  # points at which one place in one library says it
_NEEDS_ORPHANS = ("never-materialised", "hooks-removed", "missing-weight-data", "tied-weights-split")
_NEEDS_OFFLOADED = ("concurrent-calls",
                    "weight-used-outside-hook", "moved-after-dispatch", "forward-bypasses-hook", "input-on-meta",
                    "adapter-on-offloaded-base", "saving-offloaded-model", "training-offloaded-layers")  # fmt: skip
_USER_ACTS = ("quantized-cast", "moved-after-dispatch", "saving-offloaded-model", "compiled-hooks", "concurrent-load",
              "distributed-loader-conflict", "adapter-on-offloaded-base", "out-of-memory", "memory-already-taken",
              "environment-mismatch", "training-offloaded-layers")  # fmt: skip


def judge(e: Evidence, state: Sequence[Finding]) -> list[Finding]:
    """State findings and the error's, the cause that explains the error first."""
    if e.report is None:
        return sorted(state, key=_order)
    e = replace(e, report=deciding(e.report))
    assert e.report is not None
    certain = [*_shown_by_frames(e), *apart(e, state)]
    candidates = _allowed(rank(e.report), e, bool(state))
    acts = [c for c in candidates if c.cause in _USER_ACTS and c.points >= _SPECIFIC and not _is_symptom(c, state)]
    explained = [f for f in state if _explains(f, e)]
    rest = [f for f in state if f not in explained]
    first: list[Finding] = []
    if acts and not _only_state_explains(e, explained):
        first = [_from_candidate(acts[0], e, alone=True)]
    first += [f for f in _threads(e, explained) if not first]
    found = [*first, *sorted(explained, key=_order), *certain]
    if not found:
        found = [_from_candidate(c, e, alone=len(candidates) == 1, first=n == 0, second=candidates[1:2])
                 for n, c in enumerate(candidates[:3]) if n == 0 or c.points * 2 > candidates[0].points]  # fmt: skip
    if not found and e.report.last is not None:  # what the model shows beside it is not what was raised
        found = [_unknown(e, beside=bool(rest))]
    return _once([*found, *sorted(rest, key=_order)]) or [_unknown(e)]


def _order(finding: Finding) -> tuple[int, int]:
    sure = ("shown", "likely", "possible").index(finding.certainty)
    return sure, PRECEDENCE.index(finding.cause)


def _once(findings: Sequence[Finding]) -> list[Finding]:
    kept: dict[tuple[str, tuple[str, ...]], Finding] = {}
    for finding in findings:
        same = [key for key in kept if key[0] == finding.cause and (not finding.tensors or not key[1])]
        if not same:
            kept.setdefault((finding.cause, finding.tensors), finding)
    return list(kept.values())


def about_meta(report: Report) -> bool:
    mixed = mixed_devices(report.text)
    said = "\n".join(one.message for one in report.raised) if report.raised else report.text
    return bool((mixed and (mixed.with_meta or not mixed.expected)) or is_copy_out_of_meta(report.text)
                or is_value_of_meta(report.text) or _META.search(said))  # fmt: skip


# --- what the state rules out ---------------------------------------------------------------------------------


def _allowed(candidates: list[Candidate], e: Evidence, broken: bool) -> list[Candidate]:
    """Takes out causes that the state contradicts; a text that only one place raises stays."""
    if not e.distributed:  # an exception of this process, which runs alone
        candidates = [c for c in candidates if c.cause != "distributed-loader-conflict" or c.points >= _SPECIFIC]
    from_source = e.report is not None and "While copying the parameter" in e.report.text  # the other side is meta
    if not e.has_state or from_source:
        return candidates
    kept = []
    for candidate in candidates:
        if candidate.cause in _NEEDS_ORPHANS and not e.orphans and not _names_missing(candidate):
            continue
        specific = candidate.points >= _SPECIFIC
        if candidate.cause in _NEEDS_OFFLOADED and not e.offloaded and not e.orphans and not specific:
            continue
        if candidate.cause == "uninitialised-values" and not broken:
            continue
        kept.append(candidate)
    return kept


def _names_missing(candidate: Candidate) -> bool:
    return candidate.cause in ("missing-weight-data", "tied-weights-split") and candidate.points >= 6


def _is_symptom(candidate: Candidate, state: Sequence[Finding]) -> bool:
    """`.to()` on a model whose weights are gone is not what went wrong with it."""
    return candidate.cause in ("moved-after-dispatch", "saving-offloaded-model", "environment-mismatch") and any(
        f.certainty == "shown" and f.cause in ("never-materialised", "hooks-removed", "missing-weight-data",
                                               "submodule-replaced") for f in state)  # fmt: skip


def _only_state_explains(e: Evidence, explained: Sequence[Finding]) -> bool:
    return bool(explained) and e.trace is not None and any(set(f.tensors) & set(e.trace.tensors) for f in explained)


def _explains(finding: Finding, e: Evidence) -> bool:
    """Whether a finding of the state can be behind this error."""
    assert e.report is not None
    quantized = finding.cause.startswith("quantization")
    if quantized:
        return (
            "bitsandbytes" in e.report.text.lower()
            or any("bitsandbytes" in f.file for f in e.report.frames)
            or about_meta(e.report)
        )
    if finding.cause == "uninitialised-values":
        return False
    if about_meta(e.report) or mixed_devices(e.report.text):
        return True
    last = e.report.last
    if last is None or last.name not in ("KeyError", "FileNotFoundError", "ValueError", "RuntimeError"):
        return False
    stranded = {row.name for row in e.orphans} & set(finding.tensors)
    named = any(name in last.message for name in finding.tensors)
    return named or bool(stranded and Reading(e.report).passes("/torch/", "/accelerate/", "/transformers/"))


def _threads(e: Evidence, explained: Sequence[Finding]) -> Iterator[Finding]:
    """A model without data that was loaded in a pool's thread: another thread's context is the usual reason."""
    assert e.report is not None
    files = [frame.file for frame in e.report.frames]
    pool = next((n for n, file in enumerate(files) if file.endswith(("futures/thread.py", "threading.py"))), None)
    empty = next((f for f in explained if f.cause == "never-materialised"), None)
    if pool is None or empty is None:
        return
    if any("load" in frame.function or "from_pretrained" in frame.function for frame in e.report.frames[pool:]):
        yield make("concurrent-load", "likely", empty.tensors, silent=False,
                   because=("The model was loaded in a thread of a pool, and holds no data.", *empty.because),
                   check=("Did another thread load or plan a model at the same time?",))  # fmt: skip


# --- what the frames show -------------------------------------------------------------------------------------


def _shown_by_frames(e: Evidence) -> Iterator[Finding]:
    """Causes of a model that is healthy at rest: the live frames tell what was done with it."""
    trace = e.trace
    if trace is None or e.report is None or e.orphans:
        return
    if handed := list(_placeholders_handed_on(e)):
        yield from handed
        return
    if not about_meta(e.report):
        return
    where = trace.module or trace.root_class
    reading = Reading(e.report)
    if trace.inputs_on_meta:
        yield make("input-on-meta", "shown", trace.inputs_on_meta, module=where, silent=False,
                   because=("In the call these inputs are on meta, and every weight has its data.",))  # fmt: skip
    elif not e.offloaded or reading.compiling:
        return
    elif _made_on_meta(e, reading):
        said = make("input-on-meta", "shown", module=where, silent=False, because=(LIBRARY_MADE,))
        yield replace(said, avoid=("inputs.to(...): the inputs are where they should be.",))
    else:
        yield from _of_offloaded_weights(e.report, trace, reading, where)


def _of_offloaded_weights(report: Report, trace: Trace, reading: Reading, where: str) -> Iterator[Finding]:
    """What was done with weights that are offloaded and healthy; PEFT's own frames are judged by their text."""
    names = {frame.function for frame in reading.frames}
    files = " ".join(frame.file for frame in reading.frames)
    if "/peft/" in files or "lora" in files:
        return
    if "safetensors" in files or "serialization" in files or names & {"save_pretrained", "save_file", "save_model"}:
        yield make("saving-offloaded-model", "shown", trace.placeholders or trace.tensors, module=where, silent=False,
                   because=("The weights are offloaded and healthy; placeholders were saved.",))  # fmt: skip
    elif trace.placeholders or "state_dict" in (reading.site.code if reading.site else ""):
        yield make("saving-offloaded-model", "shown", trace.placeholders, module=where, silent=False,
                   because=("The weights are offloaded and healthy; a state dict was read.",))  # fmt: skip
    elif is_copy_out_of_meta(report.text) and _moved_module(reading):
        yield make("moved-after-dispatch", "shown", trace.tensors, module=where,
                   because=("The weights are offloaded and healthy; the failing call moves a module.",))  # fmt: skip
    elif trace.tensors and not trace.own_forward:
        yield make("weight-used-outside-hook", "shown", trace.tensors, module=where,
                   because=("The weight is offloaded and healthy, and was read outside its forward.",))  # fmt: skip
    elif reading.hook_right_above and (trace.tensors or (trace.module and not trace.fed_meta)):
        yield make("concurrent-calls", "likely", trace.tensors, module=where, silent=False,
                   because=("At rest every weight has its data; a hook ran right before, and it was meta.",),
                   check=("Do several threads call the model? One call at a time answers right.",))  # fmt: skip
    elif trace.tensors and reading.calls("forward"):
        yield make("forward-bypasses-hook", "shown", trace.tensors, module=where,
                   because=("The hook is in place, and this forward was called past it.",))  # fmt: skip


def _made_on_meta(e: Evidence, reading: Reading) -> bool:
    """generate() was called with real inputs, and what then was on meta is no weight: it made it on model.device."""
    assert e.report is not None and e.trace is not None
    was_input = reading.passes("accelerate/utils/operations.py") or is_value_of_meta(e.report.text)
    on_meta = e.facts is not None and e.facts.first_device == "meta"
    return bool(was_input) and on_meta and not e.trace.tensors and reading.calls("generate")


def _placeholders_handed_on(e: Evidence) -> Iterator[Finding]:
    """A state dict with placeholders, given to a save that stops at something else or to another model."""
    trace, text = e.trace, e.report.text if e.report else ""
    if trace is None or not trace.placeholders:
        return
    if "share memory" in text:
        said = ("The error is that tied names share memory, which save_file() does not take.",
                "The state dict also holds placeholders of offloaded weights.")  # fmt: skip
        yield make("saving-offloaded-model", "likely", trace.placeholders, silent=False, because=said)
    elif "While copying the parameter" in text:
        yield make("saving-offloaded-model", "likely", trace.placeholders, module=trace.root_class, silent=False,
                   because=("load_state_dict was given placeholders; this model's own tensors have their data.",),
                   check=("Where does the state dict come from? If from an offloaded model, call diag.materialise() on "
                          "that one first; a model that was built on meta has nothing to give.",))  # fmt: skip


def _moved_module(reading: Reading) -> bool:
    """A module's own .to() or .cpu() is in the trace, not a tensor's."""
    return reading.moved_module is not None or reading.passes("accelerate/big_modeling.py")


# --- ranked ---------------------------------------------------------------------------------------------------


def _from_candidate(
    c: Candidate, e: Evidence, alone: bool, first: bool = True, second: Sequence[Candidate] = ()
) -> Finding:
    from diag.diagnosis import causes

    lead = c.points - (second[0].points if second else 0)
    certainty = "possible"
    if first and c.points >= 7 and (alone or lead >= 2):
        certainty = "likely"  # a message says it: the state shows nothing of it
    assert e.report is not None
    message = e.report.last.message if e.report.last else e.report.text
    tensors = named_tensors(message) or (e.trace.tensors if e.trace else ())
    entry = causes.get(c.cause)
    return make(
        c.cause,
        certainty,
        tensors,
        module=e.trace.module if e.trace else "",
        because=tuple(map(sentence, c.says)),
        check=() if e.live and certainty == "likely" and c.points >= _SPECIFIC else (entry.check,),
        silent=False,
    )


def _unknown(e: Evidence, beside: bool = False) -> Finding:
    last = e.report.last if e.report else None
    said = f": {last.message.strip().splitlines()[0]}" if last and last.message.strip() else ""
    seen = f"The error is {last.name}{said}" if last else "No error."
    state = "Every tensor of the model has its data." if e.has_state and not e.orphans else "No model was given."
    if beside:
        state = "It says nothing of devices or weights: what the model shows below is not its cause."
    elif e.orphans:
        state = "It says nothing of devices or weights."
    return make("unknown", "possible", module=e.trace.module if e.trace else "", because=(seen, state), silent=False,
                check=("Give the whole traceback, the lines printed while loading, or the model itself.",))  # fmt: skip
