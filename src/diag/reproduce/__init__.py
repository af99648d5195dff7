"""Runnable scenarios: for every cause that can be shown here, the real failure out of the libraries, step by step.

Open `scenario.py` first, then any file of `scenarios/`. Importing this package loads neither torch nor transformers;
playing a scenario does.

>>> scenarios()[0].steps[0].name
'load'
"""

import difflib
from functools import cache

from diag.diagnosis import causes
from diag.errors import SpecError, UnsupportedError, listed
from diag.reproduce.scenario import Played, Scenario, Stage, Step
from diag.reproduce.scenarios import written

__all__ = ["Played", "Scenario", "Stage", "Step", "get", "names", "not_shown", "scenarios"]


@cache
def scenarios() -> tuple[Scenario, ...]:
    """All of them, in the order of their causes; a cause may have several variants."""
    order = causes.ids()
    return tuple(sorted(written(), key=lambda one: order.index(causes.get(one.cause).id)))


def names() -> tuple[str, ...]:
    """`cause` for the first scenario of a cause, `cause/variant` for its others."""
    return tuple(one.name for one in scenarios())


def get(name: str) -> Scenario:
    """The scenario of a cause or of `cause/variant`. Raises SpecError for a name that does not exist.

    Raises UnsupportedError for a cause that can't be shown here.
    """
    for one in scenarios():
        if name in (one.name, one.cause):
            return one
    if name in causes.ids():
        why, next_step = f"{causes.get(name).shown_on}.", f"`diag causes {name}` explains it."
        raise UnsupportedError(f"{name!r} can't be shown here.", why=why, next_step=next_step)
    close = difflib.get_close_matches(name, names(), n=1)
    raise SpecError(
        f"there is no scenario {name!r}.",
        why=f"scenarios are:{listed(name, names())}",
        next_step=f"did you mean {close[0]!r}?" if close else "choose one of these.",
    )


def not_shown() -> dict[str, str]:
    """Causes without a scenario, and why."""
    shown = {one.cause for one in scenarios()}
    return {cause: causes.get(cause).shown_on for cause in causes.ids() if cause not in shown}
