"""What is known of one cause: the record that each file of `causes/` fills in. Standard library only."""

import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from diag.diagnosis.evidence import Lost
from diag.values.finding import Certainty, Finding, Fix, FixKind, Severity
from diag.values.text import wrapped

# Texts in which several causes show themselves, as the libraries word them; `…` stands for what differs.
HEADLINE = "Tensor on device … is not on the expected device meta!"
LATER_META = "Tensor on device meta is not on the expected device …!"
COPY = "Cannot copy out of meta tensor; no data!…"
ITEM = "Tensor.item() cannot be called on meta tensors"
VALUE = "… is on the meta device, we need a `value` to put in on …."
ON_CPU_OR_DISK = "Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit the …"
NO_FOLDER = "We need an `offload_dir` to dispatch this model according to this `device_map`…"
SILENT = "no error, and a wrong answer"
OUT_OF_MEMORY = "…out of memory…"

NO_TO_EMPTY = "to_empty(): it silences the error and leaves uninitialised memory; the model then answers nonsense."


@dataclass(frozen=True)
class Text:
    """What a text says, and the patterns that say so, each with its points; of those that match the strongest counts.

    A pattern is compared with the text in lower case and without white space, so that wrapped lines still match; white
    space in a pattern is for the reader. Ten points mean that one place in one library raises this; fewer, that other
    causes give the same text. `near_meta`: it counts only beside an error about a meta tensor, whose own text has
    several causes.
    """

    says: str
    patterns: tuple[tuple[int, str], ...]
    near_meta: bool = False


def texts_of(table: str) -> tuple[Text, ...]:
    """Texts from a table: what one says, and indented below it its patterns with their points.

    >>> texts_of("near meta: a model was moved\\n    4: model.cpu\\n       |pipe.cpu")
    (Text(says='a model was moved', patterns=((4, 'model.cpu|pipe.cpu'),), near_meta=True),)
    """
    texts = []
    for entry in _entries(table):
        head, *rows = re.split(r"\n +(?=\d+: )", entry)
        says, near_meta = " ".join(head.split()), "near meta: "
        pairs = [row.partition(": ") for row in rows]
        patterns = tuple((int(points), "".join(pattern.split())) for points, _, pattern in pairs)
        texts.append(Text(says.removeprefix(near_meta), patterns, says.startswith(near_meta)))
    return tuple(texts)


def cases_of(table: str) -> tuple[str, ...]:
    """Reported situations from a table: number, what was seen, and threads as owner/repository#number."""
    return tuple(" ".join(entry.split()) for entry in _entries(table))


def _entries(table: str) -> list[str]:
    """The parts of a table; each begins at its margin, and what is indented below belongs to it."""
    return re.split(r"\n(?=\S)", textwrap.dedent(table).strip())


@dataclass(frozen=True)
class Point:
    """What frames and wording say for the file's cause: so many points, and the sentence that says why.

    With `cause` they count on top of what that other cause has, and only where it has any.
    """

    points: int
    says: str
    cause: str = ""


# What the functions of a cause's file give: `from_state` and `from_error`, `from_text`, `fixes`.
Found = Iterator[Finding]
Points = Iterator[Point]
Fixes = tuple[Fix, ...]


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
    cases: tuple[str, ...] = ()

    # Fields of Evidence and ModelFacts: `from_state` is asked where one of them holds something; always without any.
    looks_at: tuple[str, ...] = ()
    # What a live model must show for a text to count (`orphans`: tensors without data; `offloaded`: those or offloaded
    # ones; `broken`: any finding; `processes`: several processes), and at how many points the text counts without it.
    needs: Literal["", "orphans", "offloaded", "broken", "processes"] = ""
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
        threads = re.findall(r"(\S+/\S+)#(\d+)", " ".join(self.cases))
        return tuple(dict.fromkeys(f"https://github.com/{name}/issues/{number}" for name, number in threads))

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
        levels = zip(*(name.split(".")[:-1] for name in tensors))
        shared = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
        return Finding(
            cause=self.id,
            certainty=certainty,
            severity=severity,
            title=self.title,
            tensors=tensors,
            module=module or ".".join(level[0] for level in shared),
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
