"""An installed diag without its checkout has the style sheet, the page's template and the notebooks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_holds_what_the_report_needs(tmp_path):
    pytest.importorskip("setuptools", reason="building without network needs setuptools here")
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("src", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), "."]
    subprocess.run(build, cwd=copy, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    templates = "diag/views/templates"
    for needed in (f"{templates}/style.css", f"{templates}/page.html.j2", "share/diag/notebooks/report.ipynb"):
        assert any(name.endswith(needed) for name in names), needed
