"""One file for each cause that can be shown here: it holds the steps and one `Scenario` for each way it shows itself.

A new scenario is a new file; no list names them. `hooks_removed.py` is a good one to read first.
"""

import importlib
import pkgutil

from diag.reproduce.scenario import Scenario


def written() -> list[Scenario]:
    """Every `Scenario` that stands at the top level of a file here, in the order of the files and of their lines."""
    modules = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Scenario)]
