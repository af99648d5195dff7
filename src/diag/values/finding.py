"""What a diagnosis says: Finding, Fix and Findings, frozen values of text and numbers. Standard library only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, overload

from diag.values.showing import Shown
from diag.values.spec import LoadSpec
from diag.values.text import with_code, wrapped

Certainty = Literal["shown", "likely", "possible"]
Severity = Literal["error", "silent", "info"]
FixKind = Literal["reload", "in-place", "edit", "environment"]
CERTAINTIES: tuple[Certainty, ...] = get_args(Certainty)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
FIX_KINDS: tuple[FixKind, ...] = get_args(FixKind)
UNKNOWN = "unknown"
_NAMES_SHOWN = 8
_SEEN_AS = {"shown": "shown by the state", "likely": "likely", "possible": "possible"}
_FRAME_COLUMNS = ("cause", "certainty", "severity", "title", "module", "tensors", "because", "fix")


@dataclass(frozen=True)
class Requirement:
    """What a fix needs that diag does not have. `adapter-folder`: where the adapter's files are. `trained-adapter`: an
    adapter that changes something. `complete-files`: a checkpoint with the tensors that `judged` lacks."""

    what: Literal["adapter-folder", "trained-adapter", "complete-files"]
    judged: str = ""

    def is_met_by(self, spec: LoadSpec | None) -> bool:
        """Whether loading this spec can help."""
        if spec is None or self.what == "trained-adapter":
            return False
        return spec.adapter is not None if self.what == "adapter-folder" else spec.model != self.judged


@dataclass(frozen=True)
class Fix(Shown):
    """One way out. `diag.fix` can apply a `reload` (with `spec`) and an `in-place` one (with the `repair` it knows).

    An `edit` of the person's code or files and a change of the `environment` are the person's. `situation` is the
    finding's situation that it is for (empty: any), `requires` what it needs and diag does not have. `because` is the
    reason in a sentence, `code` what a person would type, `nbytes` the memory it takes (bytes, None: not known),
    `avoid` the advice not to follow.
    """

    kind: FixKind
    situation: str = ""
    requires: tuple[Requirement, ...] = ()
    because: str = ""
    code: str = ""
    spec: LoadSpec | None = None
    nbytes: int | None = None
    avoid: str = ""
    repair: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FIX_KINDS:
            raise ValueError(f"{self.kind!r} is not one of {FIX_KINDS}")

    @property
    def action(self) -> str:
        """`reload`, the name of the repair, or `by-hand`."""
        return {"reload": "reload", "in-place": self.repair}.get(self.kind, "by-hand")

    @property
    def by_hand(self) -> bool:
        return self.kind in ("edit", "environment")

    def __str__(self) -> str:
        return f"{self.because} {self.code}".strip()

    def __repr__(self) -> str:
        return f"Fix({self.action!r}, {self.because!r})"


@dataclass(frozen=True)
class Finding(Shown):
    """One cause with its evidence. Holds text and numbers only, so that it keeps no model, frame or tensor alive.

    `cause` is an id of the catalogue, `certainty` one of `CERTAINTIES` (`shown`: the state proves it), `severity` one
    of `SEVERITIES` (`silent`: a wrong answer without an error). `tensors` are the culprits by name, `module` the
    dotted path where it shows, `because` the evidence, `check` what to look at where the evidence does not decide.
    `situation` tells apart what one cause can be, where that decides its fixes.
    """

    cause: str
    certainty: Certainty
    severity: Severity
    title: str
    tensors: tuple[str, ...] = ()
    module: str = ""
    because: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    avoid: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    situation: str = ""

    def __post_init__(self) -> None:
        if self.certainty not in CERTAINTIES or self.severity not in SEVERITIES:
            raise ValueError(f"{self.certainty!r} and {self.severity!r} must be of {CERTAINTIES} and {SEVERITIES}")

    @property
    def is_unknown(self) -> bool:
        """No known cause explains what was looked at."""
        return self.cause == UNKNOWN

    def __str__(self) -> str:
        lines = [wrapped(f"{self.cause} ({_SEEN_AS[self.certainty]}): {self.title}", indent=2)]
        if self.module:
            lines.append(f"  Where:  {self.module}")
        if self.tensors:
            lines.append(wrapped(names_in_words(self.tensors), "  Tensors: "))
        lines += [wrapped(text, "  Why:    ") for text in self.because]
        lines += [wrapped(text, "  Check:  ") for text in self.check]
        lines += [with_code(fix.because, fix.code, "  Fix:    ") for fix in self.fixes]
        lines += [wrapped(text, "  Avoid:  ") for text in self.avoid]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Finding({self.cause!r}, {self.certainty!r}, {self.title!r})"


@dataclass(frozen=True)
class Subject:
    """What was diagnosed, kept so that a fix can act on it: the model, the spec it was loaded with, the inputs."""

    model: object = field(default=None, repr=False)
    spec: LoadSpec | None = None
    inputs: object = field(default=None, repr=False)


class Findings(Shown, Sequence[Finding]):
    """Findings, the first cause first; empty means healthy. `looked_at` says what was examined.

    `subject` keeps the model and spec until the findings are dropped; a single Finding keeps neither.
    """

    def __init__(self, items: Iterable[Finding] = (), *, looked_at: Sequence[str] = (), subject: Subject | None = None):
        self._items = tuple(items)
        self.looked_at = tuple(looked_at)
        self.subject = subject or Subject()

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Finding, ...]: ...
    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Findings) and self._items == other._items

    def __hash__(self) -> int:
        return hash(self._items)

    @property
    def healthy(self) -> bool:
        """No finding that says something is wrong; a notice (`info`) is not wrong."""
        return all(item.severity == "info" for item in self._items)

    def __str__(self) -> str:
        looked = [wrapped(f"Looked at: {'; '.join(self.looked_at)}.")] if self.looked_at else []
        if not self._items:
            return "\n".join(["Healthy: no cause found.", *looked])
        return "\n\n".join([*map(str, self._items), *looked])

    def __repr__(self) -> str:
        return f"Findings({', '.join(item.cause for item in self._items) or 'healthy'})"

    def to_frame(self) -> Any:
        """One row per finding, columns as text: cause, certainty, severity, title, module, tensors, because, fix."""
        import pandas as pd

        rows = []
        for one in self._items:
            texts = (", ".join(one.tensors), " ".join(one.because), str(one.fixes[0]) if one.fixes else "")
            rows.append((one.cause, one.certainty, one.severity, one.title, one.module, *texts))
        return pd.DataFrame(rows, columns=list(_FRAME_COLUMNS))


def names_in_words(names: Sequence[str], shown: int = _NAMES_SHOWN) -> str:
    """`a, b and 3 more`: the first names and how many follow."""
    head = ", ".join(names[:shown])
    return head if len(names) <= shown else f"{head} and {len(names) - shown} more"
