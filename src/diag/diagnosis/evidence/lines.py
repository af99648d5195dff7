"""What the line that failed read: the tensors behind its dotted names, found without running anything."""

import itertools
import linecache
import re
import types
from collections.abc import Iterator
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
    for match in _CHAIN.finditer(step.code):
        value = resolve(match[0], step.frame)
        if isinstance(value, torch.Tensor):
            yield value


def resolve(chain: str, frame: types.FrameType) -> object:
    """What a dotted name stands for in a frame; None where that would need a call."""
    first, *rest = re.findall(r"[A-Za-z_]\w*|\[[^\]]+\]", chain)
    value: object = frame.f_locals.get(first, frame.f_globals.get(first))
    for part in rest:
        value = _item(value, part.strip("[]"), frame) if part.startswith("[") else _attribute(value, part)
        if value is None or isinstance(value, torch.Tensor):
            return value
    return value


def _attribute(value: object, name: str) -> object:
    if isinstance(value, nn.Module):
        for held in (value._parameters, value._buffers, value._modules, value.__dict__):
            if name in held:
                return held[name]
        return None
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
