"""step_player(): a scenario taken step by step, each with its code, its output and what changed in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from diag.errors import DiagError
from diag.models.table import by_device
from diag.reproduce.scenario import Played, Scenario
from diag.values.text import count_text
from diag.values.units import format_seconds, format_size
from diag.views.markup import View, render
from diag.views.shown import findings_view
from diag.views.widgets.live import Clicks, Live, button, failure, html, mark_usable, row, scoped, status

if TYPE_CHECKING:
    from ipywidgets import Widget


_WATCHED = ["device", "backing", "dtype", "quantization", "shape"]  # columns of a placement table
_SHOWN = 8  # names of a kind


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
        from diag.models.table import placement

        played, before = self.stage.play(), self._table
        try:
            self._table = None if self.stage.model is None else placement(self.stage.model)
        except DiagError:
            self._table = None
        number, total, took = len(self._views) + 1, len(self.scenario.steps), format_seconds(played.seconds)
        html = render("widgets/player_step", number=number, total=total, played=played, took=took)
        self._views.append(View(html, f"{number}/{total} {played}") + changes_view(before, self._table))
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
        self.back_to_start() if self._views else self._say(f"{self._where()} This is the start.")

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


def changed(before: pd.DataFrame | None, after: pd.DataFrame | None) -> pd.DataFrame:
    """One row per tensor name and column that differs: `name`, `what`, `before`, `after`; new names have no before."""
    old, new = _cells(before), _cells(after)
    rows = []
    for name in dict.fromkeys([*new, *old]):
        was, now = old.get(name), new.get(name)
        if was is None or now is None:
            places = ("not there" if one is None else f"{one['device']} ({one['backing']})" for one in (was, now))
            rows.append((name, "tensor", *places))
        else:
            rows += [(name, what, was[what], now[what]) for what in _WATCHED if was[what] != now[what]]
    return pd.DataFrame(rows, columns=["name", "what", "before", "after"])


def _cells(table: pd.DataFrame | None) -> dict[str, dict[str, str]]:
    """Each name's watched columns as text."""
    if table is None:
        return {}
    return dict(zip(table["name"], table[_WATCHED].astype(str).to_dict("records")))


def changes_view(before: pd.DataFrame | None, after: pd.DataFrame | None) -> View:
    """What a step changed in a placement table: tensors that appeared, or what changed of how many."""
    if after is None:
        return _said("There is no model yet, so there is no table.")
    if before is None:
        return _totals(after)
    found = changed(before, after)
    if not len(found):
        return _said("Nothing changed in the table.")
    groups = found.groupby(["what", "before", "after"], sort=False)["name"].agg(_names).reset_index()
    rows = list(groups.itertuples(index=False))
    says = f"{found['name'].nunique():,} of {count_text(len(after), 'name')} changed."
    words = [f"  {what}: {was} -> {now}: {names}" for what, was, now, names in rows]
    html = render("table", columns=("what", "before", "after", "tensors"), rows=rows, caption=says)
    return View(html, "\n".join([says, *words]))


def _totals(after: pd.DataFrame) -> View:
    says, totals = f"The table appeared, {count_text(len(after), 'name')} long.", by_device(after)
    rows = [(device, backing, f"{n:,}", format_size(nbytes)) for device, backing, n, _, nbytes in totals.to_numpy()]
    html = render("table", columns=("device", "backing", "tensors", "size"), rows=rows, caption=says)
    return View(html, f"{says}\n{totals.to_string(index=False)}")


def _said(words: str) -> View:
    return View(render("said", words=words, look="soft"), words)


def _names(names: pd.Series) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
