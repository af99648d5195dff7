"""What the run of a report notebook leaves, however it ended: finish() writes it all.

report_from() does so for a notebook that somebody else's papermill ran, or that died on the way; refuse() for a report
that was refused before anything ran. Of the results file only the run's own rows are used, and none of an earlier
night's.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbformat import NotebookNode

from diag.errors import DiagError
from diag.sweep.results.gate import Gate, GateFailed, gate_of
from diag.sweep.results.rows import blank_row, frame_of
from diag.sweep.results.store import Store
from diag.values.exits import Exit
from diag.values.redact import redact
from diag.values.spec import LoadSpec
from diag.views import plots
from diag.views.files import put, redacted, redacted_notebook, write_notebook, write_text
from diag.views.markup import View, render
from diag.views.report import summary
from diag.views.report.artefacts import write_summaries
from diag.views.report.convert import kept_verdict, to_html
from diag.views.report.ending import ERROR, GATE_TAG, SILENT, Ending, how_it_ended
from diag.views.report.execute import Run, truthful
from diag.views.report.gating import PARAMETERS, Asked, asked_for
from diag.views.report.notebooks import NotebookError, parameters_of

Place = str | os.PathLike[str]
_MAKE_ROOM = "Next: make room, or give another --out, and run the same command again: it does only what is missing."


@dataclass(frozen=True)
class ReportResult:
    """Where the report is, what it says first, the exit code that goes with it, and what could not be written."""

    path: Path
    notebook: Path
    results: Path
    headline: str
    exit_code: Exit
    ended: Ending
    verdict: Mapping[str, object] | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        paths = {name: str(getattr(self, name)) for name in ("path", "notebook", "results")}
        values = {"headline": self.headline, "ended": self.ended.to_json(), "verdict": self.verdict}
        return redacted({**paths, **values, "notes": list(self.notes), "exit_code": int(self.exit_code)})


@dataclass(frozen=True)
class Window:
    """From when to when a run went, in seconds since the epoch; `end` None is open, `begin` None is not known."""

    begin: float | None
    end: float | None = None

    def holds(self, times: Sequence[float]) -> bool:
        """Whether one of these moments is within the run; a run of unknown begin has none."""
        return self.begin is not None and any(self.begin <= moment <= (self.end or moment) for moment in times)


def finish(
    run: Run, specs: Sequence[LoadSpec], path: Path, stored: Path, when: Window, source: Path | None = None
) -> ReportResult:
    """Writes what an executed notebook leaves: itself (unless that is `source`), page, JSON, Markdown, JUnit.

    `when` the run went decides which rows of the file `stored` are its own.
    """
    nb, ended = run.nb, run.ended.settled
    verdict = kept_verdict(nb)
    asked_wrongly = _exit_code(ended, verdict) is Exit.WRONG_USAGE  # then there are no rows that could be its own
    frame = stored_frame(specs, stored, when) if specs and not asked_wrongly else None
    if not ended.ok:
        shown = partial(specs, frame, stored) if verdict is None and frame is not None else None
        nb.cells[:0] = _first_cells(ended, shown)
        verdict = kept_verdict(nb)
    said = [] if ended.ok and verdict else [ended.title]
    headline = ". ".join([*said, str(verdict["headline"])] if verdict else said)
    code = _exit_code(ended, verdict)
    kept: Any = verdict and verdict.get("gate")
    gate = Gate(code, "", ()) if frame is None else gate_of(frame)
    gate = replace(Gate.from_json(kept) if kept else gate, exit_code=code, headline=redact(headline))
    executed, summaries = path.with_suffix(".ipynb"), path.with_suffix("")
    # The small ones first: a disk may be full.
    notes = [put(write_summaries, summaries, gate, frame)[1]]
    if source is None or executed.resolve() != source.resolve():
        notes.append(put(write_notebook, executed, nb)[1])
    html = to_html(_for_reading(nb, ended), f"{headline} | diag report")
    page, lost = put(write_text, path, html)
    notes = [redact(note) for note in (*notes, lost) if note]
    if notes:
        gate = _with_losses(gate, notes)
        put(write_summaries, summaries, gate, frame)
        notes.append(f"Finished rows are in {redact(str(stored))}. {_MAKE_ROOM}")
    return ReportResult(page or path, executed, stored, gate.headline, gate.exit_code, ended, verdict, tuple(notes))


def _exit_code(ended: Ending, verdict: Mapping[str, Any] | None) -> Exit:
    return Exit(verdict["exit_code"]) if ended.ok and verdict else ended.exit_code


def _with_losses(gate: Gate, notes: Sequence[str]) -> Gate:
    """What got worse stays worse; a job that was as expected must not pass without its report."""
    warnings = (*gate.warnings, *notes)
    if gate.exit_code is not Exit.AS_EXPECTED:
        return replace(gate, warnings=warnings)
    said = f"Could not judge: not all of the report could be written. {gate.headline}"
    return replace(gate, warnings=warnings, exit_code=Exit.NOT_JUDGED, headline=said)


def _for_reading(nb: NotebookNode, ended: Ending) -> NotebookNode:
    """A copy whose gate cell shows its outcome without the traceback that made papermill stop."""
    shown = redacted_notebook(nb)
    shown.metadata["diag"] = {"ended": ended.to_json()}
    for cell in shown.cells:
        if GATE_TAG in cell.metadata.get("tags", []):
            cell["outputs"] = [output for output in cell.outputs if output.get("ename") != GateFailed.__name__]
    return shown


def _first_cells(ended: Ending, rows: View | None) -> list[NotebookNode]:
    """What opens the executed notebook: what went wrong, and the rows that were finished before."""
    lines = "\n".join([ended.title, *ended.sentences]).splitlines()
    quoted = "\n".join([f"> **{lines[0]}**", *(f">\n> {line}" for line in lines[1:])])
    cells = [nbformat.v4.new_markdown_cell(quoted, metadata={"tags": ["diag-banner"]})]
    if rows is not None:
        shown = nbformat.v4.new_output("display_data", rows._repr_mimebundle_())
        cells.append(nbformat.v4.new_code_cell(outputs=[shown], metadata={"tags": ["diag-partial"]}))
    return cells


def refuse(error: Exception, out: Path) -> list[str]:
    """Page, JSON, Markdown and JUnit that say why a report was refused before anything ran; what to tell people."""
    name = type(error).__name__
    ended = Ending(ERROR, why=f"{name}: {error}", error=name)
    html = to_html(_for_reading(nbformat.v4.new_notebook(), ended), f"{ended.title} | diag report")
    gate = Gate(ended.exit_code, redact(ended.title), ())
    said = [put(write_text, out, html)[1], put(write_summaries, out.with_suffix(""), gate)[1]]
    return [redact(note) for note in said if note]


def report_from(notebook: Place, out: Place | None = None, results: Place | None = None) -> ReportResult:
    """Makes page, JSON, Markdown and JUnit of an executed notebook; loads nothing, and believes no stamp of papermill.

    `out` defaults to the notebook's name with `.html`. A copy of the notebook with true states goes beside it, unless
    that is the notebook itself, which is left alone. The rows come from `results`, by default the file that the
    notebook names, looked for from the current folder and from the notebook's; only those count that were saved or
    used while the notebook ran. Raises NotebookError for a file that is no notebook, or that was never run; one
    without a verdict of diag in it could not be judged.
    """
    source = Path(notebook)
    nb = _read(source)
    path = Path(out) if out is not None else source.with_suffix(".html")
    ended = how_it_ended(nb)
    if ended.ok and kept_verdict(nb) is None:
        ended = Ending(SILENT, cells=ended.cells, why="none of its cells showed a headline of diag")
    values = {name: value for name, value in parameters_of(nb).items() if name in PARAMETERS}
    named, specs = str(values.get("results") or "results.sqlite"), []
    with suppress(DiagError, KeyError):  # its parameters were wrong: nothing was asked
        specs = asked_for({**values, "baseline": None, "write_baseline": None}).specs
    places = [Path(results)] if results is not None else [Path(named), source.parent / named]
    stored = next((place for place in places if place.is_file()), places[0])
    when = window_of(nb)
    nb = truthful(nb, ended, source.name, path.with_suffix(".ipynb").name)
    return finish(Run(nb, ended), specs, path, stored, when, source)


def _read(source: Path) -> NotebookNode:
    """The notebook, sound enough to be looked at. Raises NotebookError."""
    advice = "give the notebook that papermill wrote."
    try:
        nb = nbformat.read(source, as_version=4)
    except Exception as e:  # a file of anybody's: nbformat raises whatever its contents make it trip over
        why = f"{type(e).__name__}: {e}"
        raise NotebookError(f"{str(source)!r} can't be read as a notebook.", why=why, next_step=advice) from e
    wrong = _unsound(nb)
    if wrong:
        raise NotebookError(f"{str(source)!r} is no sound notebook.", why=wrong, next_step=advice)
    return nb


def _unsound(nb: NotebookNode) -> str:
    """What keeps a parsed file from being looked at as a notebook; empty where nothing does."""
    if not isinstance(nb.get("metadata"), Mapping) or not isinstance(nb.get("cells"), list):
        return "it has no cells and metadata."
    for position, cell in enumerate(nb.cells, start=1):
        texts = [cell.get(name) for name in ("cell_type", "source")] if isinstance(cell, Mapping) else [None]
        if not all(isinstance(text, str) for text in texts):
            return f"cell {position} has no type and source."
        outputs = cell.get("outputs", [])
        sound = isinstance(outputs, list) and all(isinstance(one, Mapping) and "output_type" in one for one in outputs)
        if not sound or not isinstance(cell.get("metadata"), Mapping):
            return f"the outputs or the metadata of cell {position} are not what the format says."
    return ""


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
