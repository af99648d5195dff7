"""`make new-cause` writes a cause, its test and its scenario, which fail until they are filled in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import new_cause
import pytest
from places import ROOT


def test_it_writes_three_files_and_says_what_to_do_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(new_cause, "ROOT", tmp_path)
    assert new_cause.main(["weights-left-behind"]) == 0
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py"))
    assert written == [
        "src/diag/diagnosis/causes/weights_left_behind.py",
        "src/diag/reproduce/scenarios/weights_left_behind.py",
        "tests/diagnosis/causes/test_weights_left_behind.py",
    ]
    said = capsys.readouterr().out
    assert all(path in said for path in written)


@pytest.mark.parametrize("cause", ["Weights-Left", "weights", "weights_left", "-weights", "weights left"])
def test_what_can_be_no_id_is_refused(cause, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(new_cause, "ROOT", tmp_path)
    assert new_cause.main(["--", cause]) == 2
    assert "can't be a cause's id" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_cause_that_exists_is_left_alone(capsys):
    assert new_cause.main(["hooks-removed"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.slow
def test_the_three_fail_and_name_the_lines_to_fill_in(tmp_path, monkeypatch):
    for folder in ("src", "tests", "tools", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(new_cause, "ROOT", tmp_path)
    new_cause.main(["weights-left-behind"])
    tests = ("tests/diagnosis/causes", "tests/reproduce/test_scenarios.py")
    command = [sys.executable, "-m", "pytest", "-k", "weights_left_behind or weights-left-behind", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "COLUMNS": "500"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    for file in ("test_weights_left_behind.py", "test_causes.py", "test_scenarios.py"):
        assert any(file in line for line in failed), failed
    for file in new_cause.texts_of("weights-left-behind"):
        assert f"{file.as_posix()}:1" in done.stdout
