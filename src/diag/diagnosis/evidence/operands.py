"""What met in a failing call: entries of a state dict, read from the live frames and kept as names."""

import re
import types
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from diag.diagnosis.evidence.lines import Call


def placeholders(walked: Sequence[Call], known: Mapping[str, torch.Tensor]) -> list[str]:
    """Entries on meta of a state dict that a failing line was reading: the one at hand, else all of them.

    Plain dicts only: another mapping may be accelerate's store, which reads from disk when it is asked.
    """
    for step in reversed(walked):
        held = dict(step.frame.f_locals)
        read = [value for name, value in held.items() if _is_read(name, step)]
        at_hand = [value for value in held.values() if isinstance(value, str) and value in known]
        on_meta = [value for value in read if isinstance(value, torch.Tensor) and value.is_meta]
        if at_hand and any(value is not known[at_hand[0]] for value in on_meta):
            return at_hand[:1]
        for value in read:
            if isinstance(value, dict) and (entries := list(_on_meta(value, known))):
                return entries
    return []


def _is_read(name: str, step: Call) -> bool:
    if step.frame.f_code.co_name == "load_state_dict":  # it collects the errors and raises them at its end
        return name == "state_dict"
    return re.search(rf"\b{re.escape(name)}\b", step.code) is not None


def has_stranger_on_meta(frame: types.FrameType, known: Collection[int]) -> bool:
    """Whether a local variable is a tensor on meta that is none of the model's own; those are known by their ids."""
    held = [v for v in list(frame.f_locals.values()) if isinstance(v, torch.Tensor)]
    return any(value.is_meta and id(value) not in known for value in held)


def _on_meta(entries: dict[str, object], known: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, value in list(entries.items()):
        if isinstance(value, torch.Tensor) and value.is_meta and name in known and value is not known[name]:
            yield name
