"""Simulated machines as a value: how many GPUs, how large, how much host memory. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

from diag.errors import SpecError
from diag.values.showing import ShownAsHtml
from diag.values.units import format_exact, parse_size

_SIZE = r"\d+(?:\.\d+)?\s*[A-Za-z]+"
_ITEM = re.compile(rf"(?:(\d+)\s*x\s*)?({_SIZE})(?:\s*-\s*({_SIZE}))?\Z", re.IGNORECASE)
_GRAMMAR = "[N x]SIZE[-TAKEN][,…][+HOST], for example 2x24GiB+64GiB, 24GiB,80GiB or 24GiB-6GiB (6 GiB taken by others)"


@dataclass(frozen=True)
class Hardware(ShownAsHtml):
    """A simulated machine: capacities in bytes of its GPUs, of its host (None: this machine's), and what others hold.

    >>> Hardware.parse("2x24GiB+64GiB").gpus
    (25769803776, 25769803776)
    >>> str(Hardware.parse("2 x 300MiB + 8GiB"))
    '2x300MiB+8GiB'
    """

    gpus: tuple[int, ...]
    host: int | None = None
    taken: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "taken", tuple(self.taken) or (0,) * len(self.gpus))
        if not self.gpus or any(size <= 0 for size in self.gpus) or (self.host is not None and self.host <= 0):
            raise _wrong(self.gpus, "it needs at least one GPU, and every size must be above zero.")
        if len(self.taken) != len(self.gpus) or any(t < 0 or t > g for t, g in zip(self.taken, self.gpus)):
            raise _wrong(self.gpus, "what others hold must be between zero and the GPU's size.")

    @classmethod
    def parse(cls, text: str) -> Hardware:
        """Reads `[N x]SIZE[-TAKEN][,…][+HOST]`; `Hardware.parse(str(h)) == h`. Raises SpecError."""
        gpu_text, plus, host_text = text.partition("+")
        gpus: list[int] = []
        taken: list[int] = []
        for item in gpu_text.split(","):
            match = _ITEM.match(item.strip())
            if match is None:
                raise _wrong(text, f"{item.strip()!r} is not a size with a unit.")
            count = int(match[1] or 1)
            if count > 64:
                raise _wrong(text, f"{count} GPUs are more than the 64 that can be simulated.")
            gpus += [parse_size(match[2], "hardware")] * count
            taken += [parse_size(match[3], "hardware") if match[3] else 0] * count
        if plus and not host_text.strip():
            raise _wrong(text, "nothing follows the '+'.")
        return cls(tuple(gpus), parse_size(host_text.strip(), "hardware") if plus else None, tuple(taken))

    @property
    def free(self) -> tuple[int, ...]:
        """Bytes per GPU that are left beside what others hold."""
        return tuple(size - held for size, held in zip(self.gpus, self.taken))

    def __str__(self) -> str:
        items = []
        for (size, held), run in groupby(zip(self.gpus, self.taken)):
            count = len(list(run))
            one = format_exact(size) + (f"-{format_exact(held)}" if held else "")
            items.append(one if count == 1 else f"{count}x{one}")
        return ",".join(items) + ("" if self.host is None else f"+{format_exact(self.host)}")

    def __repr__(self) -> str:
        return f"Hardware.parse({str(self)!r})"


def _wrong(value: object, why: str) -> SpecError:
    return SpecError(f"hardware {value!r} is not valid.", why=why, next_step=f"write {_GRAMMAR}.")
