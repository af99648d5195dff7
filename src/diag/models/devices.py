"""What `0`, `cuda:1` and torch.device mean, what a device map says of a module, and where a model's inputs go."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from diag.models.backing import Device
from diag.models.entries import Entry
from diag.models.snapshot import Snapshot, take

T = TypeVar("T")


def device_name(device: Device, accelerator: str | None) -> str:
    """A device as accelerate holds it (0, 'cuda:1', torch.device), as text; integers are the accelerator's.

    >>> device_name(1, "cuda"), device_name(torch.device("cuda"), "cuda"), device_name("disk", None)
    ('cuda:1', 'cuda:0', 'disk')
    """
    if isinstance(device, int) and not isinstance(device, bool):
        return f"{accelerator}:{device}" if accelerator else str(device)
    text = str(device)
    return f"{text}:0" if text == accelerator else text


def device_texts(snapshot: Snapshot) -> dict[Device | None, str]:
    """Every device that tensors, maps and hooks of a model name, as text; the empty text for None."""
    named: set[Device | None] = {None}
    for e in snapshot.entries:
        named.update((e.device, e.mapped_device, e.mapped_inside, e.execution_device))
    return {one: "" if one is None else device_name(one, snapshot.accelerator) for one in named}


def as_device(device: Device, accelerator: str | None) -> torch.device:
    """The same as torch's own value. Raises RuntimeError for a text that names no device, such as 'disk'.

    >>> as_device(0, "cuda"), as_device("cpu", "cuda")
    (device(type='cuda', index=0), device(type='cpu'))
    """
    return torch.device(device_name(device, accelerator or "cuda"))


def device_for(path: str, device_map: Mapping[str, T], default: T | None = None) -> T | None:
    """What the map says of a module or tensor, by its own key or its closest ancestor's; `default` without one."""
    return next((device_map[name] for name in chain((path,), ancestors(path)) if name in device_map), default)


def ancestors(path: str) -> Iterator[str]:
    """The modules around a module or tensor, from its owner outwards, '' (the model) last."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def input_device(model: nn.Module | Snapshot) -> torch.device:
    """The device to send inputs to: where the embedding runs, which is not model.device when it is offloaded.

    A model without an embedding starts where its own hook sends inputs, else where its first module with tensors runs.
    Never meta; the CPU where nothing says anything.

    >>> input_device(nn.Linear(2, 2))
    device(type='cpu')
    """
    snapshot = model if isinstance(model, Snapshot) else take(model)
    return next((device for device in _candidates(snapshot) if device.type != "meta"), torch.device("cpu"))


def _candidates(snapshot: Snapshot) -> Iterator[torch.device]:
    for path in (snapshot.embedding_path, snapshot.paths.get(id(snapshot.root))):
        target = None if path is None else snapshot.hooks.execution_devices.get(path)
        if target is not None:
            yield as_device(target, snapshot.accelerator)
        elif path:
            below = (e for e in snapshot.entries if e.module_path == path or e.module_path.startswith(f"{path}."))
            yield from (_where_it_runs(entry, snapshot) for entry in below)
    yield from (_where_it_runs(entry, snapshot) for entry in snapshot.entries)


def _where_it_runs(entry: Entry, snapshot: Snapshot) -> torch.device:
    target = entry.execution_device
    return entry.device if target is None else as_device(target, snapshot.accelerator)
