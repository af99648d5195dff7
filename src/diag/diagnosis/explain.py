"""explain_text(): a pasted text to ranked causes and what to check; needs the standard library only.

Text shows less than state: nothing here is more than `likely`, and a text that is none of ours is `unknown`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diag.diagnosis import causes
from diag.diagnosis.evidence.pasted.logs import near_failures
from diag.diagnosis.evidence.pasted.paste import read_paste
from diag.diagnosis.evidence.report import Report, read_report
from diag.diagnosis.evidence.texts import (
    is_copy_out_of_meta,
    is_value_of_meta,
    mixed_devices,
    named_tensors,
    needs_value,
)
from diag.diagnosis.ranking import Candidate, rank
from diag.diagnosis.reading.point import sentence
from diag.diagnosis.reading.readings import deciding
from diag.values.finding import Finding, Findings, Fix

_CERTAIN_POINTS, _LEAD, _SHOWN = 7, 2, 4
_FIRST_CHECK = (
    "Did loading print 'Some parameters are on the meta device because they were offloaded'? If yes, the weights "
    "exist and something keeps them from being used; if not, they were probably never loaded."
)
_AMBIGUOUS = ("never-materialised", "hooks-removed", "forward-bypasses-hook", "weight-used-outside-hook",
              "input-on-meta", "moved-after-dispatch", "missing-weight-data", "tied-weights-split")  # fmt: skip


def explain_text(text: str) -> Findings:
    """What a pasted error, log or HTTP body says about the cause: ranked, each with what to check to decide.

    Interleaved workers are read apart. Never raises for what it can't read: that is `unknown`.

    >>> explain_text('{"error": "CUDA out of memory."}')[0].cause
    'out-of-memory'
    """
    reports = read_reports(text)
    looked_at = tuple(_looked_at(reports))
    ranked = [(report, rank(report)) for report in reports]
    ranked = [(report, found) for report, found in ranked if found]
    if not ranked:
        return Findings([_unknown(reports)], looked_at=looked_at)
    findings: dict[str, Finding] = {}
    for report, candidates in sorted(ranked, key=lambda pair: -pair[1][0].points):
        for finding in _findings(report, candidates):
            findings.setdefault(finding.cause, finding)
    return Findings(findings.values(), looked_at=looked_at)


def read_reports(text: str) -> list[Report]:
    """One report per worker that failed; lines of workers that did not fail are context for all."""
    reports = [read_report(lines) for lines in read_paste(near_failures(text))]
    failed = [report for report in reports if report.raised]
    if not failed:
        return [Report((), "\n".join(report.text for report in reports))]
    context = "\n".join(report.text for report in reports if not report.raised)
    return [replace(report, text=f"{context}\n{report.text}".strip()) for report in failed]


def _findings(report: Report, candidates: Sequence[Candidate]) -> list[Finding]:
    report, first = deciding(report), candidates[0]
    kept = [c for c in candidates if c.points * 2 > first.points or c is first][:_SHOWN]
    second = kept[1].points if len(kept) > 1 else 0
    sure = first.points >= _CERTAIN_POINTS and first.points - second >= _LEAD
    return [
        _finding(report, c, "likely" if c is first and sure else "possible", alone=len(kept) == 1, first=c is first)
        for c in kept
    ]


def _finding(report: Report, candidate: Candidate, certainty: str, alone: bool, first: bool) -> Finding:
    entry = causes.get(candidate.cause)
    check = [] if alone and certainty == "likely" else [entry.check]
    if (
        first
        and candidate.cause in _AMBIGUOUS
        and _about_meta(report.text)
        and "becausetheywereoffloaded" not in _flat(report)
    ):
        check.insert(0, _FIRST_CHECK)
    return Finding(
        cause=entry.id,
        certainty=certainty,
        severity=entry.severity if not report.raised else ("info" if entry.severity == "info" else "error"),
        title=entry.title,
        tensors=named_tensors(report.last.message if report.last else report.text),
        module=_where(report),
        because=tuple(map(sentence, candidate.says)),
        fixes=(Fix("by-hand", entry.fix),),
        avoid=entry.avoid,
        sources=entry.links[:4],
        check=tuple(check),
    )


def _flat(report: Report) -> str:
    return "".join(report.text.split()).lower()


def _about_meta(text: str) -> bool:
    mixed = mixed_devices(text)
    return bool((mixed and mixed.with_meta) or is_copy_out_of_meta(text) or is_value_of_meta(text) or needs_value(text))


def _where(report: Report) -> str:
    """The line that failed, as far as the text shows it."""
    frames = report.last.frames if report.last else ()
    kept = [f for f in frames if "/torch/" not in f.file and "accelerate/hooks" not in f.file] or list(frames)
    if not kept:
        return ""
    last = kept[-1]
    place = f"{last.file}:{last.line}" if last.line else last.file
    function = f" in {last.function}" if last.function else ""
    return f"{place}{function}: {last.code}" if last.code else f"{place}{function}"


def _looked_at(reports: Sequence[Report]) -> list[str]:
    lines = []
    for report in reports:
        if report.last:
            lines.append(f"{report.last.name} with {len(report.last.frames)} frames")
        else:
            lines.append(f"{len(report.text.splitlines())} lines without an exception's name")
    return [*lines, "text only, no model"]


def _unknown(reports: Sequence[Report]) -> Finding:
    entry = causes.get("unknown")
    last = next((report.last for report in reports if report.last), None)
    seen = f"The text ends in {last.name}, which fits no cause known here." if last else (
        "The text holds no exception and no line that is known here."
    )  # fmt: skip
    return Finding(entry.id, "possible", "error", entry.title, module=_where(reports[0]) if reports else "",
                   because=(seen,), fixes=(Fix("by-hand", entry.fix),), avoid=entry.avoid,
                   check=(entry.check,))  # fmt: skip


# --- as text and as JSON ---------------------------------------------------------------------------------------


def decode(raw: bytes) -> str:
    """Text of a file as it comes: UTF-8, or UTF-16 as PowerShell writes it; what can't be read is replaced."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", errors="replace")
    return raw.decode("utf-8-sig", errors="replace")


def render(found: Findings) -> str:
    """Plain text for a person: the first cause, then the others, then what was looked at."""
    head = "Most likely cause:" if found[0].certainty == "likely" else "Possible causes, the first one first:"
    head = "No known cause:" if found[0].cause == "unknown" else head
    return f"{head}\n\n{found}"


def as_json(found: Findings) -> list[dict]:
    """The findings as plain JSON values."""
    return [
        {"cause": f.cause, "certainty": f.certainty, "severity": f.severity, "title": f.title, "module": f.module,
         "tensors": list(f.tensors), "because": list(f.because), "check": list(f.check),
         "fix": [str(fix) for fix in f.fixes], "avoid": list(f.avoid), "sources": list(f.sources)}
        for f in found
    ]  # fmt: skip
