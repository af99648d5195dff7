"""step_player(): a scenario taken step by step, each with its code, its output and what changed in the table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from diag.errors import DiagError
from diag.reproduce.scenario import Played, Scenario
from diag.values.units import format_seconds
from diag.views.markup import View, escape, notice, tag
from diag.views.shown import findings_view
from diag.views.widgets.changes import changes_view
from diag.views.widgets.clicks import Clicks
from diag.views.widgets.live import Live, button, failure, html, mark_usable, row, scoped


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
        self._tables: list[pd.DataFrame | None] = []
        self._views: list[View] = []
        self._built = False

    def next(self) -> Played:
        """Plays the next step. Raises DiagError after the last."""
        played = self.stage.play()
        before = self._tables[-1] if self._tables else None
        self._tables.append(_table(self.stage.model))
        self._views.append(_step_view(len(self._views) + 1, len(self.scenario.steps), played))
        self._views[-1] += changes_view(before, self._tables[-1])
        self._refresh()
        return played

    def back_to_start(self) -> None:
        """A new stage; the old one's model and files are dropped."""
        self.stage.close()
        self.stage = self.scenario.start()
        self._tables, self._views = [], []
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
        shown = _head(self.scenario)
        for view in self._views:
            shown += view
        return shown + self.diagnose()

    def beside(self) -> View:
        steps = [f"{n}. {step.says}" for n, step in enumerate(self.scenario.steps, start=1)]
        listed = tag("ol", "".join(tag("li", escape(step.says)) for step in self.scenario.steps))
        return _head(self.scenario) + View(listed, "\n".join(steps))

    def build(self) -> Any:
        from ipywidgets import VBox

        self._next = button("Next step", self._press_next, primary=True)
        self._back = button("Back to start", self._press_back)
        self._why = button("Diagnose", self._press_diagnose)
        self._status, self._shown, self._card = html(), html(), html()
        self._built, self._clicks = True, Clicks()
        self._refresh()
        head = html(_head(self.scenario).html)
        return VBox([head, row(self._next, self._back, self._why, self._status), self._shown, self._card])

    def _press_next(self) -> None:
        if self.stage.finished:
            self._say(f"{self._where()} There is no further step.")
            return
        if self._clicks.too_early:
            self._say(f"{self._where()} A press made while it was played was not counted.")
            return
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
            self._card.value = scoped(self.diagnose().html)
        except Exception as error:
            self._card.value = failure(error)

    def _refresh(self) -> None:
        if not self._built:
            return
        self._shown.value = scoped("".join(view.html for view in self._views))
        self._card.value = ""
        mark_usable(self._next, "it is over" if self.stage.finished else "")
        for one in (self._why, self._back):
            mark_usable(one, "" if self._views else "no step was played yet")
        self._say(self._where() + (" It is over: press Diagnose." if self.stage.finished else ""))

    def _where(self) -> str:
        return f"Step {len(self._views)} of {len(self.scenario.steps)}."

    def _say(self, words: str) -> None:
        self._status.value = scoped(tag("span", escape(words), role="status"))


def _head(scenario: Scenario) -> View:
    kind = "silent: no exception, a wrong answer" if scenario.silent else "ends in an exception"
    place = f"simulated {scenario.hardware}" if scenario.hardware else "the CPU"
    words = f"{scenario.name}, on {place}; {kind}."
    html_ = tag("p", tag("strong", escape(scenario.teaches)) + " " + tag("span", escape(words), class_="soft"))
    return View(html_, f"{scenario.teaches}\n{words}")


def _step_view(number: int, total: int, played: Played) -> View:
    title = f"Step {number} of {total}: {played.step.says}"
    took = tag("span", escape(format_seconds(played.seconds)), class_="soft")
    code = tag("pre", tag("code", escape(played.step.code)), tabindex="0")
    output = notice("bad", "It raised", [escape(played.error)]) if played.error else ""
    output += tag("p", "Output: " + tag("code", escape(played.shows))) if played.shows else ""
    return View(tag("h3", escape(title) + " " + took) + code + output, f"{number}/{total} {played}")


def _table(model: Any) -> pd.DataFrame | None:
    from diag.models.tensors import placement

    try:
        return None if model is None else placement(model)
    except DiagError:
        return None
