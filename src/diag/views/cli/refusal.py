"""What a report leaves that was refused before anything ran: a page and summaries that say why."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import nbformat

from diag.sweep.results.gate import Gate
from diag.views.files import redacted, write_text
from diag.views.report import endings
from diag.views.report.artefacts import write_summaries
from diag.views.report.convert import to_html
from diag.views.report.execute import ERROR, Ending


def write_refusal(error: Exception, out: str | os.PathLike[str] | None) -> None:
    """For a job that named its report: a page, JSON, Markdown and JUnit that say why nothing was run.

    Where the place is full, they go to the folder for temporary files, and a line on stderr says so.
    """
    if out is None:
        return
    name = type(error).__name__
    ended = Ending(ERROR, why=f"{name}: {error}")
    nb = nbformat.v4.new_notebook(metadata={"diag": {"ended": ended.to_json()}})
    headline, code = endings.title(ended.to_json()), endings.exit_code(ended, None)
    for path in (Path(out), Path(tempfile.gettempdir()) / Path(out).name):
        with suppress(OSError):
            write_text(path, to_html(nbformat.from_dict(redacted(nb)), f"{headline} | diag report"))
            write_summaries(path.with_suffix(""), Gate(code, redacted(headline), ()))
            if path != Path(out):
                print(
                    f"The report is in {redacted(str(path))}: {redacted(str(out))} could not be written.",
                    file=sys.stderr,
                )
            return
