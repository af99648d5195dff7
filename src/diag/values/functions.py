"""Functions that people name as text, `package.module:function`. Standard library only."""

import importlib
import operator
from collections.abc import Callable
from typing import Any

from diag.errors import DiagError


def is_function_name(text: str) -> bool:
    """Whether a text is written as `package.module:function`; a prompt such as `Q: who?` is not."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def resolve(name: str) -> Callable[..., Any]:
    """What `package.module:path` names; the path may have dots. Raises ImportError and AttributeError."""
    module, _, path = name.partition(":")
    function: Callable[..., Any] = operator.attrgetter(path)(importlib.import_module(module))
    return function


def import_function(name: str, field: str) -> Callable[..., Any]:
    """As `resolve`, for the `field` of a spec. Raises DiagError that says what is missing."""
    module, _, path = name.partition(":")
    try:
        return resolve(name)
    except ImportError as e:
        hint = "put its folder on PYTHONPATH or install it; a function defined in a notebook can't be used."
        if field == "probe":
            hint += " If it is meant as a prompt, put a space after the colon."
        what = f"{field}={name!r}: the module {module!r} can't be imported."
        raise DiagError(what, why=f"{type(e).__name__}: {e}", next_step=hint) from e
    except AttributeError as e:
        raise DiagError(f"{field}={name!r}: {module!r} has no {path!r}.", next_step="check the spelling.") from e
