"""`import diag` costs next to nothing, and so do the parts that must work where a library is broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "torch transformers pandas numpy accelerate safetensors bitsandbytes matplotlib papermill".split()
LIGHT = (
    "diag diag.errors diag.values.spec diag.values.hardware diag.values.outcome "
    "diag.values.redact diag.machine.environment diag.loading.samples diag.views.cli.main"
).split()


def heavy_after(code: str) -> list[str]:
    """The heavy libraries that are loaded once `code` has run in a fresh interpreter."""
    check = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_loads_no_heavy_library(module):
    assert heavy_after(f"import {module}") == []


def test_making_a_spec_a_grid_and_a_redacted_text_loads_none_either():
    code = (
        "import diag\n"
        "from diag.values.redact import redact\n"
        "diag.LoadSpec('tiny', hardware='2x1GiB'); diag.grid('tiny'); redact('token=abc123')\n"
        "diag.samples.names(); dir(diag)"
    )
    assert heavy_after(code) == []


def test_this_test_can_fail():
    assert heavy_after("import diag; diag.samples.describe()") != []
    assert "torch" in heavy_after("import diag; diag.load")
