"""A row's peaks against what each device has: a simulated machine's capacity, what was free on a real one. Pure."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd

from diag.errors import SpecError
from diag.values.hardware import Hardware
from diag.values.text import list_text
from diag.values.units import format_size, is_missing
from diag.views.wording import cell_text, device_bytes

HOST = "host"
_UNIT_GAP = re.compile(r"(?<=\d) (?=\w*B\b)")


@dataclass(frozen=True)
class Peak:
    """A device's peak in bytes and what it had room for; `kind` says what `room` is: `capacity`, `free` or `unknown`.

    `held` are bytes of a simulated capacity that others hold.
    """

    device: str
    peak: int
    room: int | None = None
    kind: str = "unknown"
    held: int = 0

    @property
    def percent(self) -> str:
        """Rounded, except that only nothing is 0% and only all of it is 100%."""
        if not self.room:
            return ""
        share = self.peak / self.room
        return "< 1%" if 0 < share < 0.005 else "> 99%" if 0.995 <= share < 1 else f"{share:.0%}"

    @property
    def size(self) -> str:
        """The peak and its room, for example `298 MiB of 300 MiB`."""
        if self.room is None:
            return format_size(self.peak)
        return f"{format_size(self.peak)} of {format_size(self.room)}" + (" free" if self.kind == "free" else "")

    @property
    def others(self) -> str:
        return f"others hold {format_size(self.held)}" if self.held else ""

    @property
    def caption(self) -> str:
        """What stands above its bar; a size does not break before its unit."""
        name = "" if self.device == HOST else f"{self.device} "
        facts = ", ".join(filter(None, (self.percent, self.others)))
        return _UNIT_GAP.sub("\u00a0", f"{name}{self.size}" + (f" ({facts})" if facts else ""))

    def bars(self, largest: float) -> list[tuple[str, float]]:
        """Kind and length, in per cent of the room, of what others hold and of the peak.

        Without a known room, `largest` is the whole length.
        """
        scale = self.room or largest
        parts = (("held", self.held), ("host" if self.device == HOST else "", self.peak))
        return [(kind, min(100.0, 100 * nbytes / scale) if scale else 0.0) for kind, nbytes in parts]


def host_peak(row: pd.Series) -> Peak | None:
    """The host's peak, or None where it was not measured."""
    if is_missing(row["peak_host_bytes"]):
        return None
    peak, machine = int(row["peak_host_bytes"]), _simulated(row)
    if machine is not None and machine.host is not None:
        return Peak(HOST, peak, machine.host, "capacity")
    return _beside_free(row, HOST, peak, "cpu")


def device_peaks(row: pd.Series) -> list[Peak]:
    """The peak of every accelerator that the row names, in their order; idle ones too."""
    machine = _simulated(row)
    peaks = {name: int(size) for name, size in device_bytes(row["peak_device_bytes"]).items() if name != "cpu"}
    found = []
    for name in sorted(peaks, key=_order):
        number = _order(name)[1]
        if machine is not None and number < len(machine.gpus):
            found.append(Peak(name, peaks[name], machine.gpus[number], "capacity", machine.taken[number]))
        else:
            found.append(_beside_free(row, name, peaks[name], name))
    return found


def peaks_in_words(row: pd.Series) -> str:
    """Every peak that was measured beside its capacity, the host's first; a capacity nobody recorded says so.

    For example `1 GiB of 8 GiB host memory (12%) and 298 MiB of 300 MiB on simgpu:0 (99%)`.
    """
    host = host_peak(row)
    found = [] if host is None else [(host, "host memory" if host.room else "of host memory")]
    found += [(peak, f"on {peak.device}") for peak in device_peaks(row)]
    said = []
    for peak, where in found:
        facts = ", ".join(filter(None, (peak.percent or "capacity not recorded", peak.others)))
        said.append(f"{peak.size} {where} ({facts})")
    return list_text(said)


def explained(peaks: Sequence[Peak]) -> str:
    """What the bars of these peaks are measured against, in sentences."""
    kinds = {peak.kind for peak in peaks}
    rooms = ["the capacity of a simulated device"] if "capacity" in kinds else []
    rooms += ["what was free on a real one before the load"] if "free" in kinds else []
    said = [f"The frame of a memory bar is {' and '.join(rooms)}."] if rooms else []
    if "unknown" in kinds:
        said.append("A bar without a frame has no recorded capacity: it is scaled to the largest peak.")
    return " ".join(said)


def _simulated(row: pd.Series) -> Hardware | None:
    with suppress(SpecError):  # this machine, or what a newer diag wrote
        return Hardware.parse(cell_text(row["hardware"]))
    return None


def _beside_free(row: pd.Series, device: str, peak: int, key: str) -> Peak:
    free = device_bytes(row.get("free_bytes_before")).get(key)
    return Peak(device, peak, int(free), "free") if free else Peak(device, peak)


def _order(name: str) -> tuple[str, int]:
    """Devices of a kind by number: `simgpu:2` before `simgpu:10`."""
    kind, _, number = name.partition(":")
    return kind, int(number) if re.fullmatch(r"\d+", number) else 0
