"""Progress: plain lines where nobody watches, one for each row."""

from __future__ import annotations

import sys

import pytest

from diag.sweep import progress

ROW = {"device_map": "auto", "quantization": "nf4", "hardware": "this machine", "status": "ok"}


def test_each_row_is_one_plain_line(capsys):
    seen = []
    with progress.Progress(2, True, seen.append) as bar:
        bar.row(ROW)
        bar.row({**ROW, "status": "killed"}, from_file=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "1/2 auto × nf4 on this machine: ok" in lines[0]
    assert "killed (stored)" in lines[1] and seen == [ROW, {**ROW, "status": "killed"}]


def test_silence_is_silent_but_rows_still_arrive(capsys):
    seen = []
    with progress.Progress(1, False, seen.append) as bar:
        bar.row(ROW)
        bar.say("hello")
    assert capsys.readouterr().err == "" and seen == [ROW]


@pytest.mark.parametrize(
    ("parent", "watched"),
    [
        (["python", "/usr/bin/jupyter-lab", "--port=1"], True),
        (["python", "-m", "jupyterlab"], True),
        (["python", "-m", "jupyter", "notebook"], True),
        (["python", "-m", "papermill", "in.ipynb", "out.ipynb"], False),
        (["jupyter-nbconvert", "--execute"], False),
        (["python", "-m", "diag", "report"], False),
    ],
)
def test_only_a_kernel_of_a_notebook_server_is_watched(monkeypatch, parent, watched):
    class Process:
        def parent(self):
            return self

        def cmdline(self):
            return parent

    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(progress.psutil, "Process", Process)
    assert progress.somebody_watches() is watched
