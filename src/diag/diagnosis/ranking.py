"""From a Report to ranked causes, with the evidence for each. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from diag.diagnosis.causes import PRECEDENCE
from diag.diagnosis.evidence.report import Report
from diag.diagnosis.evidence.texts import is_about_devices, squash
from diag.diagnosis.reading.clues_messages import CLUES
from diag.diagnosis.reading.point import Point
from diag.diagnosis.reading.readings import read_points

_ENOUGH = 3


@dataclass
class Candidate:
    """A cause with its points and the sentences that gave them."""

    cause: str
    points: int = 0
    says: list[str] = field(default_factory=list)


@lru_cache(maxsize=1)
def _compiled():
    return [(clue, *(re.compile(part.replace(" ", "")) for part in (clue.pattern, clue.beside))) for clue in CLUES]


def rank(report: Report) -> list[Candidate]:
    """Causes with the most evidence first; empty when nothing in the text is ours."""
    found: dict[str, Candidate] = {}
    for point in [*_clue_points(report), *read_points(report)]:
        candidate = found.setdefault(point.cause, Candidate(point.cause))
        candidate.points += point.points
        if point.says not in candidate.says:
            candidate.says.append(point.says)
    _settle(found, report)
    order = {cause: n for n, cause in enumerate(PRECEDENCE)}
    ranked = [c for c in found.values() if c.points >= _ENOUGH]
    return sorted(ranked, key=lambda c: (-c.points, order.get(c.cause, 99)))


def _clue_points(report: Report) -> list[Point]:
    flat = squash(report.text)
    best: dict[tuple[str, str], Point] = {}
    for clue, pattern, beside in _compiled():
        if pattern.search(flat) and beside.search(flat):
            point = Point(clue.cause, clue.points, clue.says)
            known = best.get((clue.cause, clue.says))
            if known is None or known.points < point.points:
                best[(clue.cause, clue.says)] = point
    return list(best.values())


def _settle(found: dict[str, Candidate], report: Report) -> None:
    """Takes back what one piece of evidence makes meaningless beside another."""
    failed = bool(report.raised) or is_about_devices(report.text)
    if failed and "offload-notice" in found:
        found["offload-notice"].points = 0  # it is then evidence for other causes, not the cause
    if "out-of-memory" in found and "memory-already-taken" not in found and (says := held_by_others(report.text)):
        found["memory-already-taken"] = Candidate("memory-already-taken", 1 + found["out-of-memory"].points, [says])
    distributed = found.get("distributed-loader-conflict")
    if distributed and distributed.points <= 2:
        del found["distributed-loader-conflict"]
    for strong in ("quantized-cast", "offload-folder-missing", "quantization-backend-missing"):
        if strong in found and found[strong].points >= 10:
            for weak in ("moved-after-dispatch", "environment-mismatch"):
                if weak in found and found[weak].points < 10:
                    del found[weak]


_GIB = {"gib": 1.0, "mib": 1 / 1024, "kib": 1 / 1024**2, "gb": 1.0, "mb": 1 / 1000}
_AMOUNT = r"(\d+(?:\.\d+)?)\s*(gib|mib|kib|gb|mb)"


def held_by_others(text: str) -> str:
    """Whether an out-of-memory text shows that others hold a large part of the device; the sentence, or nothing.

    >>> held_by_others("CUDA out of memory. GPU 0 has a total capacity of 23.64 GiB of which 10.00 MiB is free. "
    ...                "Including non-PyTorch memory, this process has 3.00 GiB memory in use.")
    'others hold about 20.6 of 23.6 GiB of the device, this process 3.0'
    """
    flat = re.sub(r"\s+", " ", text).lower()
    total = re.search(rf"total capac\w+ (?:of )?{_AMOUNT}", flat)
    free = re.search(rf"of which {_AMOUNT} is free|{_AMOUNT} free", flat)
    mine = re.search(rf"this process has {_AMOUNT}|{_AMOUNT} already allocated|allocated memory {_AMOUNT}", flat)
    if not (total and free and mine):
        return ""
    size, left, own = (_gib([g for g in m.groups() if g]) for m in (total, free, mine))
    others = size - left - own
    return (
        f"others hold about {others:.1f} of {size:.1f} GiB of the device, this process {own:.1f}"
        if others > 0.3 * size
        else ""
    )


def _gib(groups: list[str]) -> float:
    return float(groups[0]) * _GIB[groups[1]]
