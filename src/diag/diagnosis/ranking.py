"""From what an error says to the causes that fit, the one with the most evidence first. Standard library only."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from diag.diagnosis import causes
from diag.diagnosis.cause import Cause, Point, Text
from diag.diagnosis.causes import CauseFile
from diag.diagnosis.evidence import Evidence
from diag.diagnosis.evidence.report import Report
from diag.diagnosis.evidence.texts import is_about_devices
from diag.diagnosis.evidence.trace import Trace

SPECIFIC = 10  # points at which one place in one library says it
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
        return self.points >= SPECIFIC


def deciding_trace(report: Report) -> Trace:
    """The report with the exception last that says most: a service raises its own over the one that matters.

    Of exceptions that were raised over one another it is the one with the strongest reading; of equal ones the last.
    """
    turned = [Trace(one) for one in _turned(report)]
    about_devices = [one for one in turned if one.report.last and is_about_devices(one.report.last.message)]
    return max(about_devices or turned, key=lambda one: max((p.points for p in _readings(one)), default=0))


def rank(e: Evidence) -> list[Candidate]:
    """Causes with the most evidence first; empty when nothing in the text is ours."""
    if e.trace is None:
        return []
    found: dict[str, Candidate] = {}
    relative: list[tuple[Cause, Point]] = []
    for file in causes.FILES:
        points = list(_points_of(file, e.trace))
        relative += [(file.cause, point) for point in points if point.cause]
        counted = [point for point in points if not point.cause]
        if counted:
            said = tuple(dict.fromkeys(point.says for point in counted))
            found[file.cause.id] = Candidate(file.cause, sum(point.points for point in counted), said)
    for cause, point in relative:
        if point.cause in found and cause.id not in found:
            found[cause.id] = Candidate(cause, point.points + found[point.cause].points, (point.says,))
    ranked = [one for one in _settled(list(found.values()), e.trace) if one.points >= _ENOUGH]
    return sorted(ranked, key=lambda one: (-one.points, one.cause.rank))


def _turned(report: Report) -> Iterator[Report]:
    """The report with each exception of its chain as the last, the outermost first."""
    if not report.raised:
        yield report
    for n in reversed(range(max(0, len(report.raised) - _CHAIN), len(report.raised))):
        yield replace(report, raised=(*report.raised[:n], *report.raised[n + 1 :], report.raised[n]))


def _readings(trace: Trace) -> Iterator[Point]:
    """What frames and wording give; a text by itself says the same whichever exception is looked at."""
    for file in causes.FILES:
        if file.from_text is not None:
            yield from (point for point in file.from_text(trace) if not point.cause)
        if trace.is_ambiguous:
            yield from _from_texts(tuple(text for text in file.cause.texts if text.near_meta), trace)


def _points_of(file: CauseFile, trace: Trace) -> Iterator[Point]:
    yield from _from_texts(tuple(text for text in file.cause.texts if not text.near_meta), trace)
    if file.from_text is not None:
        yield from file.from_text(trace)
    if trace.is_ambiguous:
        yield from _from_texts(tuple(text for text in file.cause.texts if text.near_meta), trace)


def _from_texts(texts: tuple[Text, ...], trace: Trace) -> Iterator[Point]:
    strongest: dict[int, Text] = {}
    for n, text in enumerate(texts):
        if _compiled(text.pattern).search(trace.flat) and _compiled(text.beside).search(trace.flat):
            group = text.group or -n - 1
            if group not in strongest or strongest[group].points < text.points:
                strongest[group] = text
    yield from (Point(text.points, text.says) for text in strongest.values())


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", ""))


def _settled(found: list[Candidate], trace: Trace) -> Iterator[Candidate]:
    """Leaves out what one piece of evidence makes meaningless beside another."""
    failed = bool(trace.report.raised) or is_about_devices(trace.report.text)
    settled = any(one.cause.settles and one.is_specific for one in found)
    for one in found:
        notice_beside_failure = one.cause.is_notice and failed  # it is then evidence for other causes
        vague_beside_settled = one.cause.is_vague and settled and not one.is_specific
        if not (notice_beside_failure or vague_beside_settled):
            yield one
