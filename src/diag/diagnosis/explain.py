"""explain_text(): a pasted text to ranked causes and what to check; needs the standard library only.

Text shows less than state: nothing here is more than `likely`, and a text that is none of ours is `unknown`.
"""

from collections.abc import Sequence
from dataclasses import replace

from diag.diagnosis import causes
from diag.diagnosis.evidence import Evidence
from diag.diagnosis.evidence.pasted.logs import near_failures
from diag.diagnosis.evidence.pasted.paste import read_paste
from diag.diagnosis.evidence.report import Report, read_report
from diag.diagnosis.evidence.texts import named_tensors
from diag.diagnosis.evidence.trace import Trace
from diag.diagnosis.ranking import Candidate, deciding_trace, rank
from diag.values.finding import UNKNOWN, Certainty, Finding, Findings, Fix
from diag.values.text import sentence

_CERTAIN_POINTS, _LEAD, _SHOWN = 7, 2, 4
_FIRST_CHECK = (
    "Did loading print 'Some parameters are on the meta device because they were offloaded'? If yes, the weights "
    "exist and something keeps them from being used; if not, they were probably never loaded."
)


def explain_text(text: str) -> Findings:
    """What a pasted error, log or HTTP body says about the cause: ranked, each with what to check to decide.

    Interleaved workers are read apart. Never raises for what it can't read: that is `unknown`.

    >>> explain_text('{"error": "CUDA out of memory."}')[0].cause
    'out-of-memory'
    """
    reports = read_reports(text)
    looked_at = [
        f"{one.last.name} with {len(one.last.frames)} frames"
        if one.last
        else f"{len(one.text.splitlines())} lines without an exception's name"
        for one in reports
    ]
    looked_at.append("text only, no model")
    ranked = [(trace, found) for trace in map(deciding_trace, reports) if (found := rank(Evidence(trace=trace)))]
    if not ranked:
        return Findings([_unknown(reports)], looked_at=looked_at)
    findings: dict[str, Finding] = {}
    for trace, candidates in sorted(ranked, key=lambda pair: -pair[1][0].points):
        first = candidates[0]
        kept = [one for one in candidates if one.points * 2 > first.points or one is first][:_SHOWN]
        for one in kept:
            findings.setdefault(one.cause.id, _finding(trace, one, kept))
    return Findings(findings.values(), looked_at=looked_at)


def read_reports(text: str) -> list[Report]:
    """One report per worker that failed; lines of workers that did not fail are context for all."""
    reports = [read_report(lines) for lines in read_paste(near_failures(text))]
    failed = [report for report in reports if report.raised]
    if not failed:
        return [Report((), "\n".join(report.text for report in reports))]
    context = "\n".join(report.text for report in reports if not report.raised)
    return [replace(report, text=f"{context}\n{report.text}".strip()) for report in failed]


def certainty_of(one: Candidate, among: Sequence[Candidate]) -> Certainty:
    """`likely` for the first candidate with enough points and a lead over the second, else `possible`."""
    second = among[1].points if len(among) > 1 else 0
    sure = one.points >= _CERTAIN_POINTS and one.points - second >= _LEAD
    return "likely" if one is among[0] and sure else "possible"


def _finding(trace: Trace, one: Candidate, kept: Sequence[Candidate]) -> Finding:
    certainty = certainty_of(one, kept)
    check = [] if len(kept) == 1 and certainty == "likely" else [one.cause.check]
    about_meta = trace.is_ambiguous or bool(trace.needed_value)
    if one is kept[0] and one.cause.is_ambiguous and about_meta and not trace.says("becausetheywereoffloaded"):
        check.insert(0, _FIRST_CHECK)
    tensors = named_tensors(trace.report.last.message if trace.report.last else trace.report.text)
    because, silent = tuple(map(sentence, one.says)), False if trace.report.raised else None
    found = one.cause.finding(certainty, tensors, because=because, check=tuple(check), silent=silent)
    return replace(found, module=_where(trace.report), fixes=(Fix(one.cause.fix_kind, because=one.cause.fix),))


def _where(report: Report) -> str:
    """The line that failed, as far as the text shows it."""
    frames = report.last.frames if report.last else ()
    kept = [f for f in frames if "/torch/" not in f.file and "accelerate/hooks" not in f.file] or list(frames)
    if not kept:
        return ""
    last = kept[-1]
    parts = ((":", last.line), (" in ", last.function), (": ", last.code))
    return last.file + "".join(f"{before}{part}" for before, part in parts if part)


def _unknown(reports: Sequence[Report]) -> Finding:
    cause = causes.get(UNKNOWN)
    last = next((report.last for report in reports if report.last), None)
    seen = "The text holds no exception and no line that is known here."
    if last:
        seen = f"The text ends in {last.name}, which fits no cause known here."
    found = cause.finding("possible", module=_where(reports[0]), because=(seen,), check=(cause.check,))
    return replace(found, sources=(), fixes=(Fix(cause.fix_kind, because=cause.fix),))


# --- as text and as JSON ---------------------------------------------------------------------------------------


def decode(raw: bytes) -> str:
    """Text of a file as it comes: UTF-8, or UTF-16 as PowerShell writes it; what can't be read is replaced."""
    is_utf_16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    return raw.decode("utf-16" if is_utf_16 else "utf-8-sig", errors="replace")


def render(found: Findings) -> str:
    """Plain text for a person: the first cause, then the others, then what was looked at."""
    head = "Most likely cause:" if found[0].certainty == "likely" else "Possible causes, the first one first:"
    head = "No known cause:" if found[0].is_unknown else head
    return f"{head}\n\n{found}"


def as_json(found: Findings) -> list[dict[str, object]]:
    """The findings as plain JSON values."""
    return [
        {"cause": f.cause, "certainty": f.certainty, "severity": f.severity, "title": f.title, "module": f.module,
         "tensors": list(f.tensors), "because": list(f.because), "check": list(f.check),
         "fix": [str(fix) for fix in f.fixes], "avoid": list(f.avoid), "sources": list(f.sources)}
        for f in found
    ]  # fmt: skip
