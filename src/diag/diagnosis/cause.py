"""What is known of one cause: the record that each file of `causes/` fills in. Standard library only."""

from dataclasses import dataclass
from typing import Literal

from diag.diagnosis.evidence import Lost
from diag.values.finding import Certainty, Finding, FixKind, Severity
from diag.values.text import wrapped

NO_TO_EMPTY = "to_empty(): it silences the error and leaves uninitialised memory; the model then answers nonsense."

Needs = Literal["", "orphans", "offloaded", "broken", "processes"]


@dataclass(frozen=True)
class Text:
    """A text that points to a cause, and how strongly.

    `pattern` is compared with the text in lower case and without white space, so that wrapped lines still match;
    spaces in a pattern are for the reader. `beside` is what the text must hold as well, where other programs write
    the same words. Ten points mean that one place in one library raises this; fewer, that other causes give the same
    text. `near_meta`: it counts only beside an error about a meta tensor, whose own text has several causes. Texts of
    one `group` say the same: of those that match, the one with the most points counts.
    """

    pattern: str
    points: int
    says: str
    beside: str = ""
    near_meta: bool = False
    group: int = 0


@dataclass(frozen=True)
class Point:
    """What frames and wording say for the file's cause: so many points, and the sentence that says why.

    With `cause` they count on top of what that other cause has, and only where it has any.
    """

    points: int
    says: str
    cause: str = ""


@dataclass(frozen=True)
class Case:
    """One reported situation. `threads` are GitHub threads as `owner/repository#number`, separated by spaces."""

    number: str
    seen: str
    threads: str = ""

    @property
    def links(self) -> tuple[str, ...]:
        return tuple(f"https://github.com/{name.replace('#', '/issues/')}" for name in self.threads.split())


@dataclass(frozen=True)
class Cause:
    """A cause behind the meta-device error and its relatives, explained for somebody who meets it the first time.

    Prose, which decides nothing: `proves` and `rules_out` say which evidence settles it, `check` the question that
    decides where a text does not. `fix` is the safe way out, `avoid` the common advice that harms, with its reason.
    `versions` is what was read or run. `seen_as` are the texts in which it shows itself (`…` stands for what differs),
    `shows_as` what is seen where no error is raised.

    Values, which decide: `rank` orders the causes that fit (what the person did, then the state it left, then the
    symptom). `shown_on` is `cpu`, `simulated` (simulated GPUs), or why it can't be shown here. `texts` point to it.
    """

    id: str
    rank: int
    title: str
    explanation: str
    proves: tuple[str, ...]
    rules_out: tuple[str, ...]
    check: str
    fix: str
    fix_kind: FixKind = "edit"
    avoid: tuple[str, ...] = ()
    versions: str = "transformers 5.23.0, accelerate 1.15.0, torch 2.13.0"
    severity: Severity = "error"
    shown_on: str = "cpu"
    seen_as: tuple[str, ...] = ()
    shows_as: tuple[str, ...] = ()
    texts: tuple[Text, ...] = ()
    cases: tuple[Case, ...] = ()

    # What a live model must show for a text to count (`orphans`: tensors without data; `offloaded`: those or offloaded
    # ones; `broken`: any finding; `processes`: several processes), and at how many points the text counts without it.
    needs: Needs = ""
    enough: int = 1000
    # Something that a person did: its text at ten points goes before what the state shows.
    is_act: bool = False
    # Its text at ten points settles the matter: a vague cause beside it is dropped.
    settles: bool = False
    is_vague: bool = False
    # Its usual text has several causes: ask first whether loading printed the notice about offloading.
    is_ambiguous: bool = False
    # An ordinary notice: it is a cause only where nothing failed.
    is_notice: bool = False
    # A model whose tensors are lost this way can't be moved or saved: errors of causes that follow a loss are symptoms.
    loses_data: bool = False
    follows_loss: bool = False
    # It tells already why tensors are on another device than the rest.
    puts_elsewhere: bool = False
    # The map spilled or an allocation failed: somebody else may hold the memory.
    memory_ran_short: bool = False
    # It shows in wrong values, never as an error.
    explains_errors: bool = True
    is_of_quantization: bool = False

    @property
    def links(self) -> tuple[str, ...]:
        """Public threads, without repeats."""
        return tuple(dict.fromkeys(link for case in self.cases for link in case.links))

    @property
    def can_be_shown(self) -> bool:
        return self.shown_on in ("cpu", "simulated")

    def finding(
        self,
        certainty: Certainty,
        tensors: tuple[str, ...] = (),
        *,
        module: str = "",
        because: tuple[str, ...] = (),
        check: tuple[str, ...] = (),
        avoid: tuple[str, ...] | None = None,
        silent: bool | None = None,
    ) -> Finding:
        """A finding in this record's words; the engine adds its fixes. `silent` overrides the severity of an error."""
        severity = self.severity
        if silent is not None and severity != "info":
            severity = "silent" if silent else "error"
        return Finding(
            cause=self.id,
            certainty=certainty,
            severity=severity,
            title=self.title,
            tensors=tensors,
            module=module or _common_module(tensors),
            because=because,
            avoid=self.avoid if avoid is None else avoid,
            sources=self.links[:4],
            check=check,
        )

    def lacking(self, lost: Lost, *because: str) -> Finding:
        """The finding for tensors that lack their data for one reason."""
        return self.finding(lost.certainty, lost.names, because=(lost.said, *because), silent=lost.silent)

    def __str__(self) -> str:
        parts = [wrapped(f"{self.id}: {self.title}", indent=2), "", wrapped(self.explanation), ""]
        parts += [wrapped(text, "Seen as:      ") for text in (*self.seen_as, *self.shows_as)]
        parts += [wrapped(text, "Proved by:    ") for text in self.proves]
        parts += [wrapped(text, "Ruled out by: ") for text in self.rules_out]
        parts += [wrapped(self.check, "To decide:    "), wrapped(self.fix, "Safe fix:     ")]
        parts += [wrapped(text, "Avoid:        ") for text in self.avoid]
        parts += [wrapped(self.shown_on, "Shown on:     "), wrapped(self.versions, "Versions:     ")]
        parts += [f"Reported in:  {link}" for link in self.links[:6]]
        return "\n".join(parts)


def _common_module(tensors: tuple[str, ...]) -> str:
    """The path that all names share, in whole parts."""
    shared: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in tensors)):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
