"""diag: why a Hugging Face model landed on the wrong devices, which load fixes it, and the proof.

Names are loaded when they are first used, so `import diag` needs neither torch, transformers nor pandas.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "DiagError": "errors",
    "Finding": "diagnosis.finding",
    "Fix": "diagnosis.finding",
    "Hardware": "hardware",
    "LoadOutcome": "outcome",
    "LoadSpec": "spec",
    "PLACEMENT_COLUMNS": "tensors",
    "Proof": "outcome",
    "diagnose": "diagnosis.engine",
    "explain_exception": "fixes",
    "fix": "fixes",
    "grid": "spec",
    "input_device": "fixes",
    "load": "loading",
    "materialise": "fixes",
    "matrix": "sweep.run",
    "placement": "tensors",
    "placement_of": "sweep.run",
    "plan": "fixes",
    "prove": "proof",
    "require_materialised": "fixes",
    "verify_weights": "weights",
    "watch": "watching",
}
_MODULES = {"causes": "diag.diagnosis.causes", "samples": "diag.samples"}

__all__ = sorted([*_HOME, *_MODULES])


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
    from diag.views.magics import load_ipython_extension as load_extension

    load_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext diag` calls."""
    from diag.views.magics import unload_ipython_extension as unload_extension

    unload_extension(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
