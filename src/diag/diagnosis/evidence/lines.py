"""What the line that failed read: tensors behind its dotted names, entries of a state dict. Runs nothing."""

import itertools
import linecache
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_CHAIN = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[(?:-?\d+|['\"][\w.]+['\"]|[A-Za-z_]\w*)\])+")


@dataclass(frozen=True)
class Call:
    """One call of a traceback: the frame, and the first and last line of the statement that failed in it.

    A frame's own `f_lineno` is where the frame is now: in the `except` block, once the exception was caught there.
    """

    frame: types.FrameType
    first: int
    last: int

    @property
    def code(self) -> str:
        """The failing expression as it stands in the file, with its line breaks."""
        file = self.frame.f_code.co_filename
        return "".join(linecache.getline(file, number) for number in range(self.first, self.last + 1))


def calls(traceback: types.TracebackType | None) -> Iterator[Call]:
    """The calls of a traceback, outermost first."""
    while traceback is not None:
        code, line = traceback.tb_frame.f_code, traceback.tb_lineno
        position = next(itertools.islice(code.co_positions(), traceback.tb_lasti // 2, None), None)
        last = position[1] if position and position[0] == line and position[1] else line
        yield Call(traceback.tb_frame, line, last)
        traceback = traceback.tb_next


def values_on_line(step: Call) -> Iterator[torch.Tensor]:
    """Tensors behind the dotted names of the failing line; attributes are read without calling anything."""
    values = (_resolved(match[0], step.frame) for match in _CHAIN.finditer(step.code))
    yield from (value for value in values if isinstance(value, torch.Tensor))


def _resolved(chain: str, frame: types.FrameType) -> object:
    """What a dotted name stands for in a frame; None where that would need a call."""
    first, *rest = re.findall(r"[A-Za-z_]\w*|\[[^\]]+\]", chain)
    value: object = frame.f_locals.get(first, frame.f_globals.get(first))
    for part in rest:
        if value is None or isinstance(value, torch.Tensor):
            return value
        value = _item(value, part.strip("[]"), frame) if part.startswith("[") else _attribute(value, part)
    return value


def _attribute(value: object, name: str) -> object:
    if isinstance(value, nn.Module):
        return {**value.__dict__, **value._modules, **value._buffers, **value._parameters}.get(name)
    return getattr(value, "__dict__", {}).get(name)


def _item(value: object, index: str, frame: types.FrameType) -> object:
    key: Any = int(index) if index.lstrip("-").isdigit() else frame.f_locals.get(index, index.strip("'\""))
    if not isinstance(value, (nn.ModuleList, nn.Sequential, nn.ModuleDict, list, tuple, dict)):
        return None
    try:
        found: object = value[key]
    except (KeyError, IndexError, TypeError):
        return None
    return found


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
        for entries in (value for value in read if isinstance(value, dict)):
            tensors = [(n, v) for n, v in list(entries.items()) if n in known and isinstance(v, torch.Tensor)]
            if names := [name for name, value in tensors if value.is_meta and value is not known[name]]:
                return names
    return []


def _is_read(name: str, step: Call) -> bool:
    if step.frame.f_code.co_name == "load_state_dict":  # it collects the errors and raises them at its end
        return name == "state_dict"
    return re.search(rf"\b{re.escape(name)}\b", step.code) is not None
