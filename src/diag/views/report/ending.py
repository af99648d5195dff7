"""How the run of a notebook ended, and what that means: its exit code, its first line, what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from nbformat import NotebookNode

from diag.errors import DiagError, SpecError
from diag.sweep.results.gate import GateFailed
from diag.sweep.results.rows import NO_ACCESS
from diag.values.exits import Exit
from diag.values.redact import redact
from diag.values.text import first_line
from diag.views.report.notebooks import NotebookError

GATE_TAG = "gate"
FINISHED, ERROR, DIED, TIMEOUT, INTERRUPTED = "finished", "error", "died", "timeout", "interrupted"
SILENT = "silent"  # it ran to its end, and no cell left a verdict
_TITLES = {
    FINISHED: "The notebook ran to its end",
    ERROR: "This report is incomplete: one of its cells failed",
    DIED: "This report is incomplete: the kernel died while it was being made",
    TIMEOUT: "This report is incomplete: its time was up",
    INTERRUPTED: "This report is incomplete: it was interrupted",
    SILENT: "Could not judge: the notebook ran to its end, and there is no verdict of diag in it",
}
_STILL_VALID = (
    "Still valid: every row shown below, as each was stored when it finished. Combinations marked “not run” were not "
    "judged, and nothing below that cell of the notebook ran."
)
_TO_GO_ON = "To go on: run the same command again; finished rows are kept and only the missing ones are loaded."
_WHAT_TO_GIVE = (
    "To go on: give the notebook that papermill wrote from diag's report.ipynb; a notebook of your own needs a cell "
    "with summary.headline(frame, gate), as that one has."
)


@dataclass(frozen=True)
class Ending:
    """How a run ended: `how` it did, at which cell (counted from 1, of `cells`), that cell's last line, and why.

    `error` is the name of the class of the error that ended it, where one did.
    """

    how: str = FINISHED
    cell: int | None = None
    cells: int = 0
    line: str = ""
    why: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.how == FINISHED

    @property
    def settled(self) -> Ending:
        """The same end; but a gate that failed is the last step, after everything is written: a finished run."""
        return replace(self, how=FINISHED) if self.how == ERROR and self.error == GateFailed.__name__ else self

    @property
    def exit_code(self) -> Exit:
        """The exit code of a run that ended so and left no verdict."""
        if self.how in (TIMEOUT, SILENT):  # at the deadline the matrix, too, stops and says that it could not judge
            return Exit.NOT_JUDGED
        if self.how != ERROR:
            return Exit.AS_EXPECTED if self.ok else Exit.DIED
        if self.error in {NotebookError.__name__, *_class_names(SpecError)}:
            return Exit.WRONG_USAGE
        return Exit.NOT_JUDGED if self.error in NO_ACCESS | _class_names(DiagError) else Exit.DIED

    @property
    def title(self) -> str:
        """The first line of the report."""
        outcome = {Exit.WRONG_USAGE: "Wrong usage", Exit.NOT_JUDGED: "Could not judge"}.get(self.exit_code)
        if self.how != ERROR or outcome is None:
            return _TITLES.get(self.how, "This report is incomplete")
        said = first_line(self.why.removeprefix(f"{self.error}:")) or self.why
        return f"{outcome}: {said}".rstrip(".")

    @property
    def sentences(self) -> tuple[str, ...]:
        """Where the run ended, why, what still holds, and how to go on."""
        if self.how == SILENT:
            return (f"Why: {self.why}.", _WHAT_TO_GIVE)
        where = f"It ended in cell {self.cell} of {self.cells}" if self.cell else "It ended before a cell ran"
        line = f": {self.line}" if self.line else ""
        return (f"{where}{line}", f"Why: {self.why or 'not known'}.", _STILL_VALID, _TO_GO_ON)

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Ending:
        """The ending that a notebook says of itself in its metadata; one that says nothing is taken as finished."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: found for name, found in value.items() if name in names})  # type: ignore[arg-type]


def how_it_ended(nb: NotebookNode) -> Ending:
    """From the outputs alone: an error in a cell, or cells that were never begun, or the end.

    A kernel that dies leaves no error, and papermill marks every cell as completed. What shows it is that the cells
    after it have no execution count; where it was the last, that it has no output though it always gives one.
    """
    numbered = enumerate(nb.cells, start=1)
    code = [(position, cell) for position, cell in numbered if cell.cell_type == "code" and cell.source.strip()]
    begun = [position for position, cell in code if cell.get("execution_count") is not None]
    if not begun:
        advice = "run it with papermill first, or let diag report run it."
        raise NotebookError("this notebook was never run: no cell has been executed.", next_step=advice)
    for position, cell in code:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                name = str(output.get("ename"))
                why = redact(f"{name}: {output.get('evalue')}".strip())
                return Ending(ERROR, position, len(nb.cells), first_line(cell.source), why, name)
    last = nb.cells[begun[-1] - 1]
    is_silent_gate = GATE_TAG in last.metadata.get("tags", []) and not last.get("outputs")
    if is_silent_gate or any(position > begun[-1] for position, _ in code):
        why = "the run stopped there without an error: the kernel died, or the run was killed"
        return Ending(DIED, begun[-1], len(nb.cells), first_line(last.source), why)
    return Ending(FINISHED, cells=len(nb.cells))


def _class_names(error: type[Exception]) -> set[str]:
    """The names of a class of errors and of those below it, where they have been imported."""
    return {error.__name__}.union(*map(_class_names, error.__subclasses__()))
