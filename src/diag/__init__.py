"""diag: why a Hugging Face model landed on the wrong devices, which load fixes it, and the proof.

Names are loaded when they are first used, so `import diag` needs neither torch, transformers nor pandas.
"""

from __future__ import annotations

import importlib

from diag.values import showing

TYPE_CHECKING = False  # `typing` itself would be most of what `import diag` costs
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_HOME = {
    "DiagError": "errors",
    "Finding": "values.finding",
    "Fix": "values.finding",
    "Hardware": "values.hardware",
    "LoadOutcome": "values.outcome",
    "LoadSpec": "values.spec",
    "PLACEMENT_COLUMNS": "models.table",
    "Proof": "values.outcome",
    "diagnose": "diagnosis.engine",
    "explain_exception": "diagnosis.mending.fixes",
    "fix": "diagnosis.mending.fixes",
    "grid": "values.spec",
    "input_device": "models.devices",
    "load": "loading.recipe",
    "materialise": "diagnosis.mending.fixes",
    "matrix": "sweep.run",
    "placement": "models.table",
    "placement_of": "sweep.run",
    "plan": "diagnosis.mending.plans",
    "prove": "proving.proof",
    "require_materialised": "diagnosis.mending.fixes",
    "verify_weights": "proving.weights",
    "watch": "proving.watching",
}
_MODULES = {"causes": "diag.diagnosis.causes", "samples": "diag.loading.samples"}

__all__ = sorted([*_HOME, *_MODULES])

showing.register_later(lambda: importlib.import_module("diag.views.shown"))


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"diag.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'diag' has no attribute {name!r}")
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext diag` calls."""
    from diag.views.notebook.magics import load_ipython_extension as load_extension

    load_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext diag` calls."""
    from diag.views.notebook.magics import unload_ipython_extension as unload_extension

    unload_extension(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
