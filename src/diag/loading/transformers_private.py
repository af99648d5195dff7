"""The one private door into transformers: its load, run up to the point where weights would be read.

`from_pretrained` builds the model on meta, prepares it for quantization and then asks `_get_device_map` which module
goes where. Stopping there gives the same map, the same refusals and the same module classes as the real load, for any
version that has this function, without repeating any of its logic. Read and tested at transformers 5.23.0.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

from diag.errors import DiagError

_PLACE = "transformers.modeling_utils._get_device_map"
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Skeleton:
    """The model as it stands before weights are read (all meta, quantized classes in place) and its device map."""

    model: Any
    device_map: Mapping[str, Any]


class _Stop(BaseException):  # not an Exception: no library may swallow it
    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton


def skeleton(model_class: Any, folder: str, **arguments: Any) -> Skeleton:
    """What `model_class.from_pretrained(folder, **arguments)` would load, without reading a weight.

    `arguments` must hold a `device_map`. Errors that transformers raises before reading weights come through
    unchanged. Raises DiagError where this transformers has no such stopping point.
    """
    with _LOCK, _stopping():
        try:
            model_class.from_pretrained(folder, **arguments)
        except _Stop as stop:
            return stop.skeleton
    raise DiagError(
        "this transformers can't be asked for its device map before the load.",
        why=f"{_PLACE} was not called; it is private and has moved or changed.",
        next_step="install the transformers named in requirements.lock, or load with device_map='none'.",
    )


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    import transformers.modeling_utils as place

    original = getattr(place, "_get_device_map", None)
    if original is None:
        raise DiagError(
            "this transformers can't be asked for its device map before the load.",
            why=f"it has no {_PLACE}.",
            next_step="install the transformers named in requirements.lock.",
        )
    caller = threading.get_ident()

    def stop_here(model: Any, device_map: Any, *rest: Any, **named: Any) -> Any:
        result = original(model, device_map, *rest, **named)
        if threading.get_ident() != caller:  # somebody else's load in another thread goes on
            return result
        raise _Stop(Skeleton(model, dict(result)))

    with mock.patch(_PLACE, stop_here):
        yield
