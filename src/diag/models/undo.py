"""all_or_nothing(snapshot): a change of a model that fails half-way is taken back."""

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import TypeVar

from diag.models.snapshot import Snapshot

V = TypeVar("V")
_ATTRIBUTES = ("_hf_hook", "_old_forward", "forward", "hf_device_map")


@contextlib.contextmanager
def all_or_nothing(snapshot: Snapshot | None) -> Iterator[None]:
    """Where the body raises, tensors, hooks and forwards of the model are again the objects that they were before.

    Keeps references only, no copies: a tensor whose own data was moved in place stays moved. Without a model, and for a
    pipeline, nothing is kept.
    """
    modules = () if snapshot is None or snapshot.is_bundle else tuple(module for _, module in snapshot.named_modules)
    before = [
        (m, dict(m._parameters), dict(m._buffers), {name: vars(m)[name] for name in _ATTRIBUTES if name in vars(m)})
        for m in modules
    ]
    try:
        yield
    except BaseException:
        for module, parameters, buffers, attributes in before:
            _restore(module._parameters, parameters)
            _restore(module._buffers, buffers)
            for name in _ATTRIBUTES:
                module.__dict__.pop(name, None)
            module.__dict__.update(attributes)
        raise


def _restore(now: MutableMapping[str, V], before: dict[str, V]) -> None:
    now.clear()
    now.update(before)
