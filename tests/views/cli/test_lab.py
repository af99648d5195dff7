"""`diag lab` opens the notebooks, and needs a checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
from places import ROOT

from diag.errors import DiagError
from diag.views.cli import lab


def test_outside_a_checkout_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(lab, "__file__", str(tmp_path / "site-packages" / "diag" / "views" / "cli" / "lab.py"))
    with pytest.raises(DiagError, match="this needs a checkout of diag"):
        lab.lab.run(argparse.Namespace(arguments=[]))


def test_the_checkout_is_this_one():
    assert lab.checkout() == ROOT


def test_it_is_reached_through_python_m_diag():
    done = subprocess.run([sys.executable, "-m", "diag", "lab", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "jupyter" in done.stdout + done.stderr
