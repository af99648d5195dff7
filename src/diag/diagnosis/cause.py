"""One entry of the catalogue as a value. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from diag.diagnosis.causes.cases import CASES, Case
from diag.diagnosis.causes.symptoms import SEEN_AS
from diag.values.text import wrapped


@dataclass(frozen=True)
class Cause:
    """A cause behind the meta-device error and its relatives, explained for somebody who meets it the first time.

    `proves` and `rules_out` say which evidence settles it, `check` the question that decides where a text does not.
    `fix` is the safe way out, `avoid` the common advice that harms, with its reason. `versions` is what was read or
    run. `shown_on` is `cpu`, `simulated` (simulated GPUs), or why it can't be shown here. `severity` as in a Finding.
    """

    id: str
    title: str
    explanation: str
    proves: tuple[str, ...]
    rules_out: tuple[str, ...]
    check: str
    fix: str
    avoid: tuple[str, ...] = ()
    versions: str = "transformers 5.23.0, accelerate 1.15.0, torch 2.13.0"
    severity: str = "error"
    shown_on: str = "cpu"

    @property
    def seen_as(self) -> tuple[str, ...]:
        """The texts in which it shows itself; `…` stands for what differs."""
        return SEEN_AS[self.id]

    @property
    def cases(self) -> dict[str, Case]:
        """The real cases whose primary cause this is, by number."""
        return {number: case for number, case in CASES.items() if case.cause == self.id}

    @property
    def links(self) -> tuple[str, ...]:
        """Public threads, without repeats."""
        return tuple(dict.fromkeys(link for case in self.cases.values() for link in case.links))

    @property
    def can_be_shown(self) -> bool:
        return self.shown_on in ("cpu", "simulated")

    def __str__(self) -> str:
        parts = [wrapped(f"{self.id}: {self.title}", indent=2), "", wrapped(self.explanation), ""]
        parts += [wrapped(text, "Seen as:      ") for text in self.seen_as]
        parts += [wrapped(text, "Proved by:    ") for text in self.proves]
        parts += [wrapped(text, "Ruled out by: ") for text in self.rules_out]
        parts += [wrapped(self.check, "To decide:    "), wrapped(self.fix, "Safe fix:     ")]
        parts += [wrapped(text, "Avoid:        ") for text in self.avoid]
        parts += [wrapped(self.shown_on, "Shown on:     "), wrapped(self.versions, "Versions:     ")]
        parts += [f"Reported in:  {link}" for link in self.links[:6]]
        return "\n".join(parts)
