"""`diag test` runs every check, says which failed, and needs a checkout; `diag lab` opens the notebooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diag.errors import DiagError, MissingLibraryError
from diag.views import develop


def names(**choice) -> list[str]:
    return [step.name for step in develop.plan_steps(**{"all": False, "fast": False, **choice})]


def test_the_steps_are_lint_format_types_and_tests():
    assert names() == names(all=True) == names(fast=True) == ["lint", "format", "types", "tests"]


def test_fast_leaves_out_slow_tests_and_browsers_and_all_leaves_out_nothing():
    two = ("-n", "2", "--dist", "loadfile")
    fast = develop.plan_steps(all=False, fast=True)[-1].arguments
    assert fast == (*two, "-m", "not slow and not browser and not exhaustive")
    assert develop.plan_steps(all=False, fast=False)[-1].arguments == (*two, "-m", "not exhaustive")
    assert develop.plan_steps(all=True, fast=False)[-1].arguments == two


def test_what_follows_goes_to_pytest():
    arguments = develop.plan_steps(all=True, fast=False, arguments=["tests/test_spec.py"])[-1].arguments
    assert arguments[-1] == "tests/test_spec.py"


@pytest.fixture
def small_checkout(tmp_path, monkeypatch) -> Path:
    """A checkout of three files, to break one check at a time."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text("def test_one():\n    assert True\n")
    (tmp_path / "code.py").write_text("x: int = 1\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.mypy]\nfiles = ["code.py"]\n[tool.pytest.ini_options]\nmarkers = ["exhaustive", "slow", "browser"]\n'
    )
    monkeypatch.setattr(develop, "checkout", lambda: tmp_path)
    return tmp_path


def test_all_is_well_where_every_check_passes(small_checkout, capfd):
    assert develop.main(["test"]) == 0
    said = capfd.readouterr().out
    assert "1 passed" in said
    assert said.splitlines()[-1] == "diag test: everything passed."


@pytest.mark.parametrize(
    ("file", "text", "failed"),
    [
        ("code.py", "import os\n\nx: int = 1\n", "lint"),
        ("code.py", "x: int   = 1\n", "format"),
        ("code.py", 'x: int = "a"\n', "types"),
        ("tests/test_one.py", "def test_one():\n    raise ValueError\n", "tests"),
    ],
)
def test_each_check_can_fail_is_named_and_the_others_still_run(small_checkout, capfd, file, text, failed):
    (small_checkout / file).write_text(text)
    assert develop.main(["test"]) == 1
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == f"diag test: failed: {failed}."
    assert said.count("passed in") >= 3


def test_outside_a_checkout_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(develop, "__file__", str(tmp_path / "site-packages" / "diag" / "views" / "develop.py"))
    with pytest.raises(DiagError, match="this needs a checkout of diag"):
        develop.main(["test"])
    with pytest.raises(DiagError, match="this needs a checkout of diag"):
        develop.main(["lab"])


def test_a_tool_that_is_absent_is_named():
    with pytest.raises(MissingLibraryError, match="a_tool_nobody_has can't be found"):
        develop._check_installed(["pytest", "a_tool_nobody_has"])


def test_the_checkout_is_this_one():
    assert develop.checkout() == Path(__file__).resolve().parents[2]


def test_both_commands_are_reached_through_python_m_diag():
    for command in ("test", "lab"):
        done = subprocess.run([sys.executable, "-m", "diag", command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0
        assert f"diag {command}" in done.stdout + done.stderr or "jupyter" in done.stdout
