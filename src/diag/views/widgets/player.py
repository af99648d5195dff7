"""step_player(): a scenario taken step by step, each with its code, its output and what changed in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from diag.errors import DiagError
from diag.reproduce.scenario import Played, Scenario
from diag.values.units import format_seconds
from diag.views.markup import View, render
from diag.views.shown import findings_view
from diag.views.widgets.changes import changes_view
from diag.views.widgets.live import Clicks, Live, button, failure, html, mark_usable, row, scoped, status

if TYPE_CHECKING:
    from ipywidgets import Widget


def step_player(scenario: str | Scenario) -> StepPlayer:
    """Plays a scenario of `diag.reproduce`, by name or as a value. Raises DiagError for a name that does not exist."""
    if isinstance(scenario, str):
        from diag import reproduce

        scenario = reproduce.get(scenario)
    return StepPlayer(scenario)


class StepPlayer(Live):
    """`next`, `back_to_start` and `diagnose` do what the buttons do; `stage` holds the model and what was raised."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.stage = scenario.start()
        self._table: pd.DataFrame | None = None  # after the last step
        self._views: list[View] = []  # one for each step that was played
        self._built = False

    def next(self) -> Played:
        """Plays the next step. Raises DiagError after the last."""
        played = self.stage.play()
        before, self._table = self._table, _table_of(self.stage.model)
        step = _step_view(len(self._views) + 1, len(self.scenario.steps), played)
        self._views.append(step + changes_view(before, self._table))
        self._refresh()
        return played

    def back_to_start(self) -> None:
        """A new stage; the old one's model and files are dropped."""
        self.stage.close()
        self.stage = self.scenario.start()
        self._table, self._views = None, []
        self._refresh()

    def diagnose(self) -> View:
        """What diag says about what the steps left behind."""
        return findings_view(self.stage.diagnose())

    def close(self) -> None:
        """Drops the model and the files."""
        self.stage.close()
        self.stage.__dict__.update(model=None, error=None)

    def view(self) -> View:
        """All steps played, and the diagnosis."""
        while not self.stage.finished:
            self.next()
        shown = self._head()
        for view in (*self._views, self.diagnose()):
            shown += view
        return shown

    def beside(self) -> View:
        """What the steps will do, for whoever opens the notebook without a kernel."""
        steps = [step.says for step in self.scenario.steps]
        text = "\n".join(f"{number}. {says}" for number, says in enumerate(steps, start=1))
        return self._head() + View(render("widgets/player_steps", steps=steps), text)

    def _head(self) -> View:
        one = self.scenario
        kind = "silent: no exception, a wrong answer" if one.silent else "ends in an exception"
        words = f"{one.name}, on {f'simulated {one.hardware}' if one.hardware else 'the CPU'}; {kind}."
        return View(render("widgets/player_head", teaches=one.teaches, words=words), f"{one.teaches}\n{words}")

    def build(self) -> Widget:
        from ipywidgets import VBox

        self._next = button("Next step", self._press_next, primary=True)
        self._back = button("Back to start", self._press_back)
        self._why = button("Diagnose", self._press_diagnose)
        self._status, self._shown, self._card = html(), html(), html()
        self._built, self._clicks = True, Clicks()
        self._refresh()
        head = html(scoped("widgets/joined", views=[self._head()]))
        return VBox([head, row(self._next, self._back, self._why, self._status), self._shown, self._card])

    def _press_next(self) -> None:
        if self.stage.finished:
            self._say(f"{self._where()} There is no further step.")
        elif self._clicks.too_early:
            self._say(f"{self._where()} A press made while it was played was not counted.")
        else:
            self._say(f"Playing step {len(self._views) + 1} …")
            with self._clicks.working():
                try:
                    self.next()
                except DiagError as error:
                    self._say(str(error))

    def _press_back(self) -> None:
        if self._views:
            self.back_to_start()
        else:
            self._say(f"{self._where()} This is the start.")

    def _press_diagnose(self) -> None:
        if not self._views:
            self._say(f"{self._where()} Play a step first.")
            return
        try:
            self._card.value = scoped("widgets/joined", views=[self.diagnose()])
        except Exception as error:
            self._card.value = failure(error)

    def _refresh(self) -> None:
        if not self._built:
            return
        self._shown.value = scoped("widgets/joined", views=self._views)
        self._card.value = ""
        mark_usable(self._next, "it is over" if self.stage.finished else "")
        for one in (self._why, self._back):
            mark_usable(one, "" if self._views else "no step was played yet")
        self._say(self._where() + (" It is over: press Diagnose." if self.stage.finished else ""))

    def _where(self) -> str:
        return f"Step {len(self._views)} of {len(self.scenario.steps)}."

    def _say(self, words: str) -> None:
        self._status.value = status(words)


def _step_view(number: int, total: int, played: Played) -> View:
    took = format_seconds(played.seconds)
    return View(
        render("widgets/player_step", number=number, total=total, played=played, took=took),
        f"{number}/{total} {played}",
    )


def _table_of(model: object) -> pd.DataFrame | None:
    from diag.models.table import placement

    try:
        return None if model is None else placement(model)
    except DiagError:
        return None
