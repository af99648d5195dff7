"""What a reading of a text gives. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """So many points for a cause, and the sentence that says why."""

    cause: str
    points: int
    says: str
