"""A placement table read as a strip: the model's layers in order, each with where its weights are. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from diag.values.text import capital, count_text
from diag.values.units import format_size, is_missing

_LAYER = re.compile(r"(?P<stem>.*?\.)?(?P<index>\d+)(?=\.|$)")
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
    """Neighbouring units in the same place."""

    units: tuple[Unit, ...]

    @property
    def place(self) -> Place:
        return self.units[0].place

    @property
    def mixed(self) -> bool:
        return bool(self.units[0].others)

    @property
    def letter(self) -> str:
        return self.place.letter + ("+" if self.mixed else "")

    @property
    def names(self) -> str:
        """The units' names, layers as ranges."""
        return ", ".join(_ranges(unit.name for unit in self.units))


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
    sizes: dict[str, dict[Place, int]] = {}
    columns = ["name", "module", "device", "mapped_device", "backing", "nbytes", "kind"]
    for name, module, device, mapped, backing, nbytes, kind in table[columns].itertuples(index=False):
        if kind == "non_persistent_buffer" or (kind == "buffer" and unit_name(module or name) not in sizes):
            continue
        places = sizes.setdefault(unit_name(module or name), {})
        place = place_of(device, mapped, backing)
        places[place] = places.get(place, 0) + max(int(nbytes), 1)
    return tuple(_unit(name, places) for name, places in sizes.items())


def stretches(strip: Iterable[Unit]) -> tuple[Stretch, ...]:
    """Neighbouring units in equal places, joined."""
    alike = groupby(strip, key=lambda unit: (unit.place, bool(unit.others)))
    return tuple(Stretch(tuple(group)) for _, group in alike)


def unit_name(module: str) -> str:
    """A layer's path up to its number, any other module's whole path.

    >>> unit_name("model.layers.3.mlp.up_proj"), unit_name("lm_head")
    ('model.layers.3', 'lm_head')
    """
    match = _LAYER.match(module)
    return f"{match['stem'] or ''}{match['index']}" if match else module


def letters(strip: Iterable[Unit]) -> str:
    """The strip as text, one sign a unit."""
    return "".join(unit.place.letter for unit in strip)


def strip_in_words(strip: Iterable[Unit]) -> str:
    """The strip in words: places in order of appearance, each with its units."""
    places: dict[str, list[str]] = {}
    for stretch in stretches(strip):
        part = " (in part)" if stretch.mixed else ""
        places.setdefault(stretch.place.text, []).append(stretch.names + part)
    return " · ".join(f"{capital(text)}: {', '.join(names)}" for text, names in places.items())


def totals(table: pd.DataFrame) -> str:
    """Bytes per place, tied tensors counted once; `missing` first, as it is what matters."""
    once = table[~table["tied_group"].duplicated() | table["tied_group"].isna()]
    columns = ["device", "mapped_device", "backing", "nbytes"]
    sizes: dict[Place, int] = {}
    for device, mapped, backing, nbytes in once[columns].itertuples(index=False):
        place = place_of(device, mapped, backing)
        sizes[place] = sizes.get(place, 0) + int(nbytes)
    ordered = sorted(sizes.items(), key=lambda item: (not item[0].is_missing, item[0].offloaded, item[0].device))
    return " · ".join(f"{_short(place)} {format_size(size)}" for place, size in ordered)


def counts(table: pd.DataFrame) -> str:
    """How many tensors are resident, offloaded and missing, in words."""
    found = table["backing"].value_counts()
    names = (("none", "missing"), ("offloaded", "offloaded"), ("resident", "resident"))
    return ", ".join(f"{count_text(int(found[key]), 'tensor')} {word}" for key, word in names if key in found.index)


def _short(place: Place) -> str:
    if place.is_missing:
        return "missing"
    return f"{place.device} (offloaded)" if place.offloaded else place.device


def _unit(name: str, places: dict[Place, int]) -> Unit:
    main = max(places, key=lambda place: (place.is_missing, places[place]))
    return Unit(name, main, tuple(place for place in places if place != main))


def _ranges(names: Iterable[str]) -> list[str]:
    """Names in order, numbered neighbours with the same stem as one range with the stem's last word."""
    found: list[tuple[str, int | None, int | None]] = []
    for name in names:
        stem, _, last = name.rpartition(".")
        if not last.isdigit():
            found.append((name.rpartition(".")[2], None, None))
        elif found and found[-1][0] == stem and found[-1][2] == int(last) - 1:
            found[-1] = (stem, found[-1][1], int(last))
        else:
            found.append((stem, int(last), int(last)))
    return [_range(*item) for item in found]


def _range(stem: str, first: int | None, last: int | None) -> str:
    if first is None:
        return stem
    word = ".".join(stem.split(".")[-2:]) if stem.endswith(".block") else stem.rpartition(".")[2]
    return f"{word.removesuffix('s')} {first}" if first == last else f"{word} {first}–{last}"
