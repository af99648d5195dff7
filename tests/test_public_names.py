"""The public surface: every name works, twice, whatever else was imported in between."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import diag

_SLOW_TO_IMPORT = ("diag.simgpu",)  # importing registers nothing, but it is for machines that ask for it


def test_every_public_name_survives_importing_every_submodule():
    before = {name: getattr(diag, name) for name in diag.__all__}
    for module in pkgutil.walk_packages(diag.__path__, "diag."):
        if not module.name.endswith("__main__") and not module.name.startswith(_SLOW_TO_IMPORT):
            importlib.import_module(module.name)
    after = {name: getattr(diag, name) for name in diag.__all__}
    assert {name for name in after if after[name] is not before[name]} == set()


def test_the_contract_names_are_there():
    contract = """LoadSpec load placement diagnose fix matrix grid Hardware DiagError Finding Fix Proof plan prove watch
    materialise input_device require_materialised verify_weights explain_exception placement_of samples causes
    PLACEMENT_COLUMNS""".split()
    assert set(contract) - set(diag.__all__) == set()


def test_an_unknown_name_is_an_attribute_error():
    code = "import diag\ntry:\n    diag.nonsense\nexcept AttributeError as e:\n    print(e)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "nonsense" in out
