"""What met in a failing call: entries of a state dict, read from the live frames and kept as names."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator, Sequence

import torch
from torch import nn


def placeholders(frames: Sequence[types.FrameType], model: nn.Module) -> list[str]:
    """Entries on meta of a state dict that a frame was reading: the one at hand, else all of them.

    Plain dicts only: another mapping may be accelerate's store, which reads from disk when it is asked.
    """
    known = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    for frame in reversed(frames):
        held = list(frame.f_locals.values())
        on_meta = [value for value in held if isinstance(value, torch.Tensor) and value.is_meta]
        at_hand = [value for value in held if isinstance(value, str) and value in known]
        if at_hand and any(value is not known[at_hand[0]] for value in on_meta):
            return at_hand[:1]
        for value in held:
            if isinstance(value, dict) and (entries := list(_on_meta(value, known))):
                return entries
    return []


def _on_meta(entries: dict, known: dict[str, torch.Tensor]) -> Iterator[str]:
    for name, value in list(entries.items()):
        if isinstance(value, torch.Tensor) and value.is_meta and name in known and value is not known[name]:
            yield name
