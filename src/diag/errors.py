"""The errors diag raises. Each says what happened, why, and what to do next."""

import difflib
from collections.abc import Iterable


def listed(asked: str, valid: Iterable[str]) -> str:
    """The names that exist, one per line, the nearest to what was asked first.

    >>> print(listed("tinny", ["smollm2", "tiny"]))
    <BLANKLINE>
          tiny
          smollm2
    """
    near = sorted(valid, key=lambda name: -difflib.SequenceMatcher(None, asked, name).ratio())
    return "".join(f"\n      {name}" for name in near)


class DiagError(Exception):
    """Base of every error diag raises itself.

    `what` is the fact, `why` its reason, `next_step` advice that is safe to follow; the last two may be empty.

    >>> print(DiagError("no such sample: 'tini'", why="samples are: tiny, smollm2", next_step="use 'tiny'"))
    no such sample: 'tini'
    Why:  samples are: tiny, smollm2
    Next: use 'tiny'
    """

    def __init__(self, what: str, *, why: str = "", next_step: str = "") -> None:
        super().__init__(what, why, next_step)
        self.what, self.why, self.next_step = what, why, next_step

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"Why:  {self.why}")
        if self.next_step:
            lines.append(f"Next: {self.next_step}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle as cls(*args); ours take keywords, and they cross process borders.
        return (_rebuild, (type(self), self.what, self.why, self.next_step))


def _rebuild(cls: type[DiagError], what: str, why: str, next_step: str) -> DiagError:
    return cls(what, why=why, next_step=next_step)


class SpecError(DiagError, ValueError):
    """The values of a spec alone show that it can't be loaded."""


class UnsupportedError(DiagError):
    """A known refusal of this combination, found before any weight was read; `why` is the rule and its source."""


class CheckpointError(DiagError):
    """The files of the model are missing, incomplete or refused."""


class MissingLibraryError(DiagError, ImportError):
    """A library that this spec needs is absent, too old or broken."""


class LoaderError(DiagError):
    """The user's own loader can't be called, or gives back something else than a model."""


class CouldNotJudgeError(DiagError):
    """There is no answer to compare with; says what was tried."""


class MetaUseError(DiagError, RuntimeError):
    """An operation mixed meta and real tensors while `watch` was on; names module and operation."""


class MetaWithoutDataError(DiagError, RuntimeError):
    """Meta tensors whose data nobody holds."""


class NotAModelError(DiagError, TypeError):
    """The object has no parameters to look at."""
