"""What a report leaves that was refused before anything ran: a page and summaries that say why."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import nbformat

from diag.sweep.results.gate import Gate
from diag.values.redact import redact
from diag.views.files import redacted_notebook, write_text
from diag.views.report.artefacts import write_summaries
from diag.views.report.convert import to_html
from diag.views.report.ending import ERROR, Ending


def write_refusal(error: Exception, out: str | os.PathLike[str] | None) -> None:
    """For a job that named its report: a page, JSON, Markdown and JUnit that say why nothing was run.

    Where the place is full, they go to the folder for temporary files, and a line on stderr says so.
    """
    if out is None:
        return
    name = type(error).__name__
    ended = Ending(ERROR, why=f"{name}: {error}", error=name)
    nb = nbformat.v4.new_notebook(metadata={"diag": {"ended": ended.to_json()}})
    for path in (Path(out), Path(tempfile.gettempdir()) / Path(out).name):
        with suppress(OSError):
            write_text(path, to_html(redacted_notebook(nb), f"{ended.title} | diag report"))
            write_summaries(path.with_suffix(""), Gate(ended.exit_code, redact(ended.title), ()))
            if path != Path(out):
                print(
                    f"The report is in {redact(str(path))}: {redact(str(out))} could not be written.",
                    file=sys.stderr,
                )
            return
