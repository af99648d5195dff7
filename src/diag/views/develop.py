"""For people who change diag: every check of a checkout in one command, and JupyterLab on its notebooks."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diag.errors import DiagError, MissingLibraryError

_FAST = "not slow and not browser and not exhaustive"
_USUAL = "not exhaustive"
# Most tests wait for processes of their own; two at a time halve the run. A file stays together, for its fixtures.
_TWO_AT_A_TIME = ("-n", "2", "--dist", "loadfile")


@dataclass(frozen=True)
class Step:
    """One check: what it is called, the module that does it, and its arguments."""

    name: str
    module: str
    arguments: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    """`test [--fast | --all] [what pytest takes …]` or `lab [what JupyterLab takes …]`; 0 where all is well."""
    if argv[:1] == ["lab"]:
        return start_lab(argv[1:])
    parser = argparse.ArgumentParser(prog="diag test", description="Runs every check of a checkout.")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--fast", action="store_true", help="leave out slow tests, browsers and notebooks")
    kinds.add_argument("--all", action="store_true", help="also what takes many minutes")
    options, rest = parser.parse_known_args(list(argv[1:]))
    return run_tests(all=options.all, fast=options.fast, arguments=rest)


def run_tests(all: bool = False, fast: bool = False, arguments: Sequence[str] = ()) -> int:
    """Lint, format, types, then pytest, which runs every notebook too; says at the end which of them failed.

    Each step runs whether or not one before it failed. Returns 0 or 1. Raises DiagError outside a checkout and
    MissingLibraryError where a tool is absent.
    """
    root = checkout()
    steps = plan_steps(all=all, fast=fast, arguments=arguments)
    _check_installed([step.module for step in steps])
    failed = [step.name for step in steps if not _run(step, root)]
    print(f"diag test: {'failed: ' + ', '.join(failed) if failed else 'everything passed'}.", flush=True)
    return 1 if failed else 0


def plan_steps(*, all: bool, fast: bool, arguments: Sequence[str] = ()) -> list[Step]:
    """What `run_tests` would run; `arguments` go to pytest. Every notebook is run by a test marked slow."""
    chosen = _FAST if fast else "" if all else _USUAL
    tests = ("-m", chosen) if chosen else ()
    return [
        Step("lint", "ruff", ("check", ".")),
        Step("format", "ruff", ("format", "--check", ".")),
        Step("types", "mypy", ()),
        Step("tests", "pytest", (*_TWO_AT_A_TIME, *tests, *arguments)),
    ]


def start_lab(arguments: Sequence[str] = ()) -> int:
    """JupyterLab on the notebooks, until it is closed."""
    _check_installed(["jupyterlab"])
    folder = checkout() / "notebooks"
    as_root = ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # usual in containers
    command = [sys.executable, "-m", "jupyterlab", *as_root, *arguments]
    try:
        return subprocess.run(command, cwd=folder).returncode
    except KeyboardInterrupt:
        return 0


def checkout() -> Path:
    """The folder of the checkout that this package was installed from. Raises DiagError for an installed copy."""
    root = Path(__file__).resolve().parents[3]
    if (root / "pyproject.toml").is_file() and (root / "tests").is_dir():
        return root
    raise DiagError(
        "this needs a checkout of diag.",
        why="tests and notebooks are not part of the installed package.",
        next_step="clone the repository and run `make test` or `make lab` in it.",
    )


def _check_installed(modules: Sequence[str]) -> None:
    missing = sorted({module for module in modules if importlib.util.find_spec(module) is None})
    if missing:
        raise MissingLibraryError(
            f"{', '.join(missing)} can't be found.",
            why=f"{sys.executable or 'this interpreter'} has only a part of what a checkout needs.",
            next_step="run `make test` or `make lab`, or: python -m pip install -r requirements.lock.",
        )


def _run(step: Step, root: Path) -> bool:
    print(f"\n== {step.name}: {step.module} {' '.join(step.arguments)}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", step.module, *step.arguments], cwd=root).returncode
    print(f"== {step.name}: {'passed' if code == 0 else f'failed (exit {code})'}", end=" ")
    print(f"in {time.perf_counter() - start:.0f} s", flush=True)
    return code == 0
