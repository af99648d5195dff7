"""Every check of a checkout in one command: `python tools/check.py [--fast | --all] [what pytest takes …]`.

Lint, format, types, then pytest, which runs every notebook too.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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


def main(argv: Sequence[str] | None = None) -> int:
    """`[--fast | --all] [what pytest takes …]`; 0 where all is well."""
    parser = argparse.ArgumentParser(prog="check", description="Runs every check of a checkout.")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--fast", action="store_true", help="leave out slow tests, browsers and notebooks")
    kinds.add_argument("--all", action="store_true", help="also what takes many minutes")
    options, rest = parser.parse_known_args(argv)
    return run_tests(all=options.all, fast=options.fast, arguments=rest)


def run_tests(all: bool = False, fast: bool = False, arguments: Sequence[str] = ()) -> int:
    """Lint, format, types, then pytest, which runs every notebook too; says at the end which of them failed.

    Each step runs whether or not one before it failed. Returns 0 or 1. Ends with a message where a tool is absent.
    """
    steps = plan_steps(all=all, fast=fast, arguments=arguments)
    _check_installed([step.module for step in steps])
    failed = [step.name for step in steps if not _run(step)]
    print(f"check: {'failed: ' + ', '.join(failed) if failed else 'everything passed'}.", flush=True)
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


def _check_installed(modules: Sequence[str]) -> None:
    missing = sorted({module for module in modules if importlib.util.find_spec(module) is None})
    if missing:
        sys.exit(
            f"{', '.join(missing)} can't be found.\n"
            f"Why:  {sys.executable or 'this interpreter'} has only a part of what a checkout needs.\n"
            "Next: run `make test`, or: python -m pip install -r requirements.lock."
        )


def _run(step: Step) -> bool:
    print(f"\n== {step.name}: {step.module} {' '.join(step.arguments)}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", step.module, *step.arguments], cwd=ROOT).returncode
    print(f"== {step.name}: {'passed' if code == 0 else f'failed (exit {code})'}", end=" ")
    print(f"in {time.perf_counter() - start:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
