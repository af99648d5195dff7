"""The modules of a model in the order in which they stand, each under each of its paths, parents first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from diag.errors import NotAModelError
from diag.models.backing import Device, Serving

OnFailure = Callable[[str, Exception], None]  # what could not be read, and the error


@dataclass(slots=True)
class Visit:
    """One module under one of its paths. hooks.py fills in `serving` to `mapped_inside`, adapters.py what follows.

    `prefix` stands before the names of its tensors, `name` is what its parent calls it. `serving` are the hooks that
    serve it, `execution_device` is where they run it; `mapped` and `mapped_inside` are what the device maps of the
    model and of a model inside it say. `put_in` says that the whole module was put in by somebody, `names_put_in` which
    of its tensors were.
    """

    module: nn.Module
    path: str
    prefix: str
    name: str
    parent: Visit | None
    serving: tuple[Serving, ...] = ()
    execution_device: Device | None = None
    mapped: Device | None = None
    mapped_inside: Device | None = None
    put_in: bool = False
    names_put_in: tuple[str, ...] = ()

    def is_inside(self, module: nn.Module) -> bool:
        """Whether this visit is of the module or of something inside it."""
        at: Visit | None = self
        while at is not None and at.module is not module:
            at = at.parent
        return at is not None


def parts_of(model: object) -> tuple[tuple[str, nn.Module], ...]:
    """The modules of a model or a pipeline, each with the prefix that its names get. Raises NotAModelError."""
    if isinstance(model, nn.Module):
        return (("", model),)
    bundle = model if isinstance(model, Mapping) else getattr(model, "components", None)
    if isinstance(bundle, Mapping):
        parts = tuple((f"{key}.", part) for key, part in bundle.items() if isinstance(part, nn.Module))
        if parts:
            return parts
    raise NotAModelError(
        f"a {type(model).__name__} has no parameters to tabulate.",
        why="placement reads torch modules, pipelines whose `components` are modules, or dicts of modules.",
        next_step="pass the model itself, for example outcome.model.",
    )


def walk(parts: tuple[tuple[str, nn.Module], ...], failed: OnFailure) -> list[Visit]:
    """Every module under each of its paths; one that holds a module around itself is not entered again."""
    visits = []
    waiting = [Visit(part, prefix.rstrip("."), prefix, "", None) for prefix, part in reversed(parts)]
    while waiting:
        at = waiting.pop()
        visits.append(at)
        try:
            for name, child in reversed(at.module._modules.items()):
                if child is not None and not (child._modules and at.is_inside(child)):
                    path = f"{at.prefix}{name}"
                    waiting.append(Visit(child, path, f"{path}.", name, at))
        except Exception as error:
            failed(f"what is inside {at.path or type(at.module).__name__}", error)
    return visits
