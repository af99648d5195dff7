"""Runnable scenarios: for every cause that can be shown here, the real failure out of the libraries, step by step.

Importing this package loads neither torch nor transformers; playing a scenario does.

>>> names()[0]
'never-materialised'
"""

from __future__ import annotations

import difflib

from diag.errors import SpecError, UnsupportedError, listed
from diag.reproduce.scenario import Played, Scenario, Stage, Step
from diag.reproduce.scenarios.meta import META_SCENARIOS
from diag.reproduce.scenarios.placement import PLACEMENT_SCENARIOS
from diag.reproduce.scenarios.quantized import QUANTIZED_SCENARIOS
from diag.reproduce.scenarios.use import USE_SCENARIOS

__all__ = ["Played", "Scenario", "Stage", "Step", "get", "names", "not_shown", "scenarios"]

_ALL: tuple[Scenario, ...] = (*META_SCENARIOS, *USE_SCENARIOS, *QUANTIZED_SCENARIOS, *PLACEMENT_SCENARIOS)


def scenarios() -> tuple[Scenario, ...]:
    """All of them; a cause may have several variants."""
    return _ALL


def names() -> tuple[str, ...]:
    """`cause` for the first scenario of a cause, `cause/variant` for its others."""
    return tuple(one.name for one in _ALL)


def get(name: str) -> Scenario:
    """The scenario of a cause or of `cause/variant`. Raises SpecError for a name that does not exist.

    Raises UnsupportedError for a cause that can't be shown here.
    """
    from diag.diagnosis import causes

    for one in _ALL:
        if name in (one.name, one.cause):
            return one
    if name in causes.CATALOGUE:
        raise UnsupportedError(f"{name!r} can't be shown here.", why=f"{causes.get(name).shown_on}.",
                        next_step=f"`diag causes {name}` explains it.")  # fmt: skip
    close = difflib.get_close_matches(name, names(), n=1)
    raise SpecError(f"there is no scenario {name!r}.", why=f"scenarios are:{listed(name, names())}",
                    next_step=f"did you mean {close[0]!r}?" if close else "choose one of these.")  # fmt: skip


def not_shown() -> dict[str, str]:
    """Causes without a scenario, and why."""
    from diag.diagnosis import causes

    shown = {one.cause for one in _ALL}
    return {cause: causes.get(cause).shown_on for cause in causes.ids() if cause not in shown}
