"""A placement table read as a strip: the model's layers in order, each with where its weights are. Pure."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from diag.values.text import capital, count_text
from diag.values.units import format_size, is_missing

_LAYER = re.compile(r"(?:.*?\.)?\d+(?=\.|$)")
MISSING = "missing"


@dataclass(frozen=True)
class Place:
    """Where weights are: `device` holds the data; `offloaded` means it is fetched for each forward."""

    device: str
    offloaded: bool = False

    @property
    def is_missing(self) -> bool:
        return self.device == MISSING

    @property
    def letter(self) -> str:
        """One sign: an accelerator's index, `C` for the CPU, `c` and `d` for offloaded to CPU and disk, `×` missing."""
        if self.is_missing:
            return "×"
        if self.device.startswith(("cpu", "disk")):
            return self.device[0].lower() if self.offloaded else self.device[0].upper()
        index = self.device.partition(":")[2] or "0"
        return index if not self.offloaded else f"({index})"

    @property
    def style(self) -> str:
        """The class of the style sheet."""
        if self.is_missing:
            return MISSING
        if self.device.startswith("disk"):
            return "disk-offloaded"
        if self.offloaded:
            return "cpu-offloaded"
        if self.device.startswith("cpu"):
            return "cpu"
        index = self.device.partition(":")[2]
        return f"gpu-{'abcd'[int(index) % 4 if index.isdigit() else 0]}"

    @property
    def text(self) -> str:
        if self.is_missing:
            return "missing: on meta, and nobody holds the data"
        return f"offloaded to {self.device}" if self.offloaded else f"on {self.device}"


@dataclass(frozen=True)
class Unit:
    """One step of the strip: a layer, or what stands beside the layers (an embedding, a norm, the head)."""

    name: str
    place: Place
    others: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Stretch:
    """Neighbouring units in the same place; `is_mixed` where a part of each is elsewhere."""

    place: Place
    is_mixed: bool
    units: tuple[Unit, ...]

    @property
    def letter(self) -> str:
        return self.place.letter + ("+" if self.is_mixed else "")

    @property
    def names(self) -> str:
        """The units' names; numbered neighbours with the same stem as one range with the stem's last word."""
        runs: list[tuple[str, list[int]]] = []
        for unit in self.units:
            stem, _, last = unit.name.rpartition(".")
            if not last.isdigit():
                runs.append((last, []))
            elif runs and runs[-1][0] == stem and runs[-1][1][-1:] == [int(last) - 1]:
                runs[-1][1].append(int(last))
            else:
                runs.append((stem, [int(last)]))
        return ", ".join(_range(*run) for run in runs)


def place_of(device: object, mapped_device: object, backing: object) -> Place:
    """The place of one row of a placement table.

    >>> place_of("meta", "disk", "offloaded").text, place_of("meta", "0", "none").letter
    ('offloaded to disk', '×')
    """
    if backing == "none":
        return Place(MISSING)
    if backing == "offloaded":
        return Place("cpu" if is_missing(mapped_device) else str(mapped_device), offloaded=True)
    return Place(str(device))


def units(table: pd.DataFrame) -> tuple[Unit, ...]:
    """The strip's units in the table's order; a unit's place is where most of its bytes are, missing data first."""
    sizes: dict[str, Counter[Place]] = {}
    columns = ["name", "module", "device", "mapped_device", "backing", "nbytes", "kind"]
    for name, module, device, mapped, backing, nbytes, kind in table[columns].itertuples(index=False):
        unit = unit_name(module or name)
        if kind != "non_persistent_buffer" and (kind != "buffer" or unit in sizes):
            sizes.setdefault(unit, Counter())[place_of(device, mapped, backing)] += max(int(nbytes), 1)
    found = []
    for unit, places in sizes.items():
        place, *others = sorted(places, key=lambda place: (not place.is_missing, -places[place]))
        found.append(Unit(unit, place, tuple(others)))
    return tuple(found)


def stretches(strip: Iterable[Unit]) -> tuple[Stretch, ...]:
    """Neighbouring units in equal places, joined."""
    alike = groupby(strip, key=lambda unit: (unit.place, bool(unit.others)))
    return tuple(Stretch(place, is_mixed, tuple(group)) for (place, is_mixed), group in alike)


def unit_name(module: str) -> str:
    """A layer's path up to its number, any other module's whole path.

    >>> unit_name("model.layers.3.mlp.up_proj"), unit_name("lm_head")
    ('model.layers.3', 'lm_head')
    """
    match = _LAYER.match(module)
    return match[0] if match else module


def strip_in_words(strip: Iterable[Unit]) -> str:
    """The strip in words: places in order of appearance, each with its units."""
    places: dict[str, list[str]] = {}
    for stretch in stretches(strip):
        part = " (in part)" if stretch.is_mixed else ""
        places.setdefault(stretch.place.text, []).append(stretch.names + part)
    return " · ".join(f"{capital(text)}: {', '.join(names)}" for text, names in places.items())


def totals(table: pd.DataFrame) -> str:
    """Bytes per place, tied tensors counted once; `missing` first, as it is what matters."""
    once = table[~table["tied_group"].duplicated() | table["tied_group"].isna()]
    columns = ["device", "mapped_device", "backing", "nbytes"]
    sizes: Counter[Place] = Counter()
    for device, mapped, backing, nbytes in once[columns].itertuples(index=False):
        sizes[place_of(device, mapped, backing)] += int(nbytes)
    ordered = sorted(sizes, key=lambda place: (not place.is_missing, place.offloaded, place.device))
    named = ((f"{place.device} (offloaded)" if place.offloaded else place.device, sizes[place]) for place in ordered)
    return " · ".join(f"{name} {format_size(size)}" for name, size in named)


def counts(table: pd.DataFrame) -> str:
    """How many tensors are resident, offloaded and missing, in words."""
    found = table["backing"].value_counts()
    names = (("none", "missing"), ("offloaded", "offloaded"), ("resident", "resident"))
    return ", ".join(f"{count_text(int(found[key]), 'tensor')} {word}" for key, word in names if key in found.index)


def _range(stem: str, numbers: list[int]) -> str:
    word = ".".join(stem.split(".")[-2:]) if stem.endswith(".block") else stem.rpartition(".")[2]
    if len(numbers) < 2:
        return " ".join([word.removesuffix("s"), *map(str, numbers)]) if numbers else stem
    return f"{word} {numbers[0]}–{numbers[-1]}"
