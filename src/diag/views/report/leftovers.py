"""What the results file holds of a run that did not come to its end: its own rows, and none of an earlier night's."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
from nbformat import NotebookNode

from diag.errors import DiagError
from diag.sweep.results.rows import blank_row, frame_of
from diag.sweep.results.store import Store
from diag.values.spec import LoadSpec
from diag.views import plots
from diag.views.markup import View, render
from diag.views.report import summary
from diag.views.report.gating import Asked


@dataclass(frozen=True)
class Window:
    """From when to when a run went, in seconds since the epoch; `end` None is open, `begin` None is not known."""

    begin: float | None
    end: float | None = None

    def holds(self, times: Sequence[float]) -> bool:
        """Whether one of these moments is within the run; a run of unknown begin has none."""
        if self.begin is None:
            return False
        return any(self.begin <= moment <= (self.end or moment) for moment in times)


def window_of(nb: NotebookNode) -> Window:
    """When a notebook ran, by what papermill and nbclient noted in it; not known where neither did."""
    meta = nb.metadata.get("papermill") or {}
    begun = [_moment(meta.get("start_time"))]
    for cell in nb.cells:
        begun.append(_moment((cell.metadata.get("papermill") or {}).get("start_time")))
        begun += map(_moment, (cell.metadata.get("execution") or {}).values())
    return Window(min((moment for moment in begun if moment is not None), default=None), _moment(meta.get("end_time")))


def stored_frame(specs: Sequence[LoadSpec], stored: Path, when: Window) -> pd.DataFrame:
    """The frame of `specs`: rows that were saved, or taken as they were, within `when`; the rest `not_run`.

    A row of an earlier run may be of other weights in the same folder: only a run that looked at the files knows.
    """
    found = {}
    if stored.is_file():
        with suppress(DiagError), Store(stored, must_exist=True) as store:
            rows = store.rows()
            for spec in specs:
                mine = [key for key in store.keys_of(spec.to_json()) if when.holds(store.times(key))]
                if mine:
                    found[spec] = rows[mine[0]]
    ended = "The run ended before this combination was loaded."
    return frame_of([found.get(spec) or blank_row(spec, "not_run", ended) for spec in specs])


def partial(specs: Sequence[LoadSpec], frame: pd.DataFrame, stored: Path) -> View:
    """The page of what the run had finished of `specs`, `frame` being its own; the rest shows as not run."""
    loaded = Asked(list(specs)).loaded(frame)
    sections = {"Every combination": summary.overview(frame)}
    if loaded:
        sections["Where the weights are"] = plots.placement_strips(loaded, str(stored))
        sections["Memory and time"] = plots.memory_and_time(frame)
        sections["The answer"] = summary.answers(frame, specs[0].probe) + plots.logit_difference(frame)
    sections["What did not work, and why"] = summary.failures(frame)
    titled = [View(render("report/heading", title=title), title) + view for title, view in sections.items()]
    return sum(titled, start=summary.headline(frame))


def _moment(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
