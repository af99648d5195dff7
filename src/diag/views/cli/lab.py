"""`diag lab`: JupyterLab on the notebooks of a checkout."""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from diag.errors import DiagError, MissingLibraryError
from diag.views.cli.command import command


@command("diag lab", "those of JupyterLab · 3 there is no checkout or no JupyterLab", has_json=False)
def lab(options: argparse.Namespace) -> int:
    """Opens JupyterLab on the notebooks of a checkout."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingLibraryError(
            "jupyterlab can't be found.",
            why=f"{sys.executable or 'this interpreter'} has only a part of what a checkout needs.",
            next_step="run `make lab`, or: python -m pip install -r requirements.lock.",
        )
    import subprocess

    folder = checkout() / "notebooks"
    as_root = ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # usual in containers
    command = [sys.executable, "-m", "jupyterlab", *as_root, *options.arguments]
    try:
        return subprocess.run(command, cwd=folder).returncode
    except KeyboardInterrupt:
        return 0


def checkout() -> Path:
    """The folder of the checkout that this package was installed from. Raises DiagError for an installed copy."""
    root = Path(__file__).resolve().parents[4]
    if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir():
        return root
    raise DiagError(
        "this needs a checkout of diag.",
        why="the notebooks are not part of the installed package.",
        next_step="clone the repository and run `make lab` in it.",
    )
