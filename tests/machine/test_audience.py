"""Bars are for people: a terminal, or a kernel that a notebook server started."""

import sys

import pytest

import diag
from diag.machine import audience


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
    monkeypatch.setattr(audience.psutil, "Process", Process)
    assert audience.somebody_watches() is watched


def test_a_load_that_nobody_watches_draws_no_bar_and_leaves_the_switch_as_it_was(capfd):
    from transformers.utils import logging

    assert diag.load(diag.LoadSpec("tiny", device_map="none")).ok
    assert "Loading weights" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled()
