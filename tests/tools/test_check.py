"""The checks of a checkout: each can fail, the others still run, and what failed is named."""

from __future__ import annotations

from pathlib import Path

import check
import pytest


def names(**choice) -> list[str]:
    return [step.name for step in check.plan_steps(**{"all": False, "fast": False, **choice})]


def test_the_steps_are_lint_format_types_and_tests():
    assert names() == names(all=True) == names(fast=True) == ["lint", "format", "types", "tests"]


def test_fast_leaves_out_slow_tests_and_browsers_and_all_leaves_out_nothing():
    two = ("-n", "2", "--dist", "loadfile")
    fast = check.plan_steps(all=False, fast=True)[-1].arguments
    assert fast == (*two, "-m", "not slow and not browser and not exhaustive")
    assert check.plan_steps(all=False, fast=False)[-1].arguments == (*two, "-m", "not exhaustive")
    assert check.plan_steps(all=True, fast=False)[-1].arguments == two


def test_what_follows_goes_to_pytest():
    arguments = check.plan_steps(all=True, fast=False, arguments=["tests/test_spec.py"])[-1].arguments
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
    monkeypatch.setattr(check, "ROOT", tmp_path)
    return tmp_path


def test_all_is_well_where_every_check_passes(small_checkout, capfd):
    assert check.main([]) == 0
    said = capfd.readouterr().out
    assert "1 passed" in said
    assert said.splitlines()[-1] == "check: everything passed."


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
    assert check.main([]) == 1
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == f"check: failed: {failed}."
    assert said.count("passed in") >= 3


def test_a_tool_that_is_absent_is_named():
    with pytest.raises(SystemExit, match="a_tool_nobody_has can't be found"):
        check._check_installed(["pytest", "a_tool_nobody_has"])
