"""From what an error says to the causes that fit, the one with the most evidence first. Standard library only."""

import re
from dataclasses import dataclass, replace

from diag.diagnosis import causes
from diag.diagnosis.cause import Cause, Point, Points
from diag.diagnosis.causes import CauseFile
from diag.diagnosis.evidence import Evidence
from diag.diagnosis.evidence.report import Report
from diag.diagnosis.evidence.texts import is_about_devices
from diag.diagnosis.evidence.trace import Trace

_SPECIFIC = 10  # points at which one place in one library says it
_ENOUGH = 3
_CHAIN = 8  # exceptions of one chain that are read


@dataclass(frozen=True)
class Candidate:
    """A cause with its points and the sentences that gave them."""

    cause: Cause
    points: int
    says: tuple[str, ...]

    @property
    def is_specific(self) -> bool:
        return self.points >= _SPECIFIC


def deciding_trace(report: Report) -> Trace:
    """The report with the exception last that says most: a service raises its own over the one that matters.

    Of exceptions that were raised over one another it is the one with the strongest reading of frames and wording; of
    equal ones the last. A text by itself says the same whichever exception is looked at.
    """
    raised, traces = report.raised, [Trace(report)]
    for n in reversed(range(max(0, len(raised) - _CHAIN), len(raised) - 1)):
        traces.append(Trace(replace(report, raised=(*raised[:n], *raised[n + 1 :], raised[n]))))
    about_devices = [one for one in traces if one.report.last and is_about_devices(one.report.last.message)]

    def strongest_reading(trace: Trace) -> int:
        readings = (point for file in causes.FILES for point in _read(file, trace))
        return max((point.points for point in readings if not point.cause), default=0)

    return max(about_devices or traces, key=strongest_reading)


def rank(e: Evidence) -> list[Candidate]:
    """Causes with the most evidence first; empty when nothing in the text is ours."""
    if e.trace is None:
        return []
    found: dict[str, Candidate] = {}
    relative: list[tuple[Cause, Point]] = []
    for file in causes.FILES:
        points = [*_from_texts(file.cause, e.trace, near_meta=False), *_read(file, e.trace)]
        relative += [(file.cause, point) for point in points if point.cause]
        counted = [point for point in points if not point.cause]
        if counted:
            said = tuple(dict.fromkeys(point.says for point in counted))
            found[file.cause.id] = Candidate(file.cause, sum(point.points for point in counted), said)
    for cause, point in relative:
        if point.cause in found and cause.id not in found:
            found[cause.id] = Candidate(cause, point.points + found[point.cause].points, (point.says,))
    # What one piece of evidence makes meaningless beside another is left out.
    failed = bool(e.trace.report.raised) or is_about_devices(e.trace.report.text)
    settled = any(one.cause.settles and one.is_specific for one in found.values())
    ranked = [
        one
        for one in found.values()
        if one.points >= _ENOUGH
        and not (one.cause.is_notice and failed)  # it is then evidence for other causes
        and not (one.cause.is_vague and settled and not one.is_specific)
    ]
    return sorted(ranked, key=lambda one: (-one.points, one.cause.rank))


def _read(file: CauseFile, trace: Trace) -> Points:
    """What frames and wording give, with the texts that count beside an error about meta."""
    if file.from_text is not None:
        yield from file.from_text(trace)
    if trace.is_ambiguous:
        yield from _from_texts(file.cause, trace, near_meta=True)


def _from_texts(cause: Cause, trace: Trace, near_meta: bool) -> Points:
    for text in cause.texts:
        if text.near_meta is near_meta:
            matching = [points for points, pattern in text.patterns if re.search(pattern, trace.flat)]
            if matching:
                yield Point(max(matching), text.says)
