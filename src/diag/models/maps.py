"""Reads device maps: what a map says of a module or tensor. Maps are written in `loading/presets.py`."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any


def device_for(path: str, device_map: Mapping[str, Any], default: Any = None) -> Any:
    """What the map says of a module or tensor, by its own key or its closest ancestor's; `default` without one."""
    return next((device_map[name] for name in chain((path,), ancestors(path)) if name in device_map), default)


def ancestors(path: str) -> Iterator[str]:
    """The modules around a module or tensor, from its owner outwards, '' (the model) last."""
    while path:
        path = path.rpartition(".")[0]
        yield path
