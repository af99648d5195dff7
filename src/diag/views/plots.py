"""Pictures of a matrix: placement strips, memory and time, distance to the reference. HTML and text, no script.

They are drawn as HTML with real text in it rather than as images: they follow the reader's theme and width, print,
can be read aloud, and cost a few kilobytes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd

from diag.errors import DiagError
from diag.sweep.run import placement_of
from diag.values.spec import LoadSpec
from diag.values.text import wrapped
from diag.values.units import format_seconds, is_missing
from diag.views import strips
from diag.views.capacity import Peak, device_peaks, explained, host_peak, peaks_in_words
from diag.views.markup import View, render
from diag.views.rows import Label, described, grouped, label, together
from diag.views.wording import cell_text, number_text, status_word

_LEGEND = (
    (strips.Place("simgpu:0"), "on accelerator 0, 1, …"),
    (strips.Place("cpu"), "on the CPU"),
    (strips.Place("cpu", offloaded=True), "offloaded to CPU memory: fetched for each forward"),
    (strips.Place("disk", offloaded=True), "offloaded to disk: fetched for each forward"),
    (strips.Place(strips.MISSING), "missing: on meta, and nobody holds the data"),
)


@dataclass(frozen=True)
class Figure:
    """A number as text, and the length of its bar in per cent."""

    text: str
    share: float


def placement_strips(specs: Sequence[LoadSpec], results: str = "results.sqlite") -> View:
    """One strip per different placement among the stored rows of `specs`: layers left to right, each where it is.

    Device maps that placed alike share a strip. Combinations without a stored placement (refused, failed) have none.
    """
    several_models = len({spec.model for spec in specs}) > 1
    found = []
    for spec in specs:
        with suppress(DiagError):
            table = placement_of(results, spec)
            key = (spec.model, spec.quantization, spec.hardware, strips.units(table), strips.totals(table))
            found += [(key, (spec, table))] if len(table) else []
    drawn = []
    for alike in together(found):
        (first, table), named = alike[0], label([described(spec) for spec, _ in alike])
        drawn.append((Label(f"{first.model} · {named.name}", named.simulated) if several_models else named, table))
    return _strips(drawn)


def strips_of(tables: Mapping[str, pd.DataFrame]) -> View:
    """One strip per different placement among `tables`, which maps a name of one's own to its placement table."""
    alike = together(((strips.units(table), strips.totals(table)), (name, table)) for name, table in tables.items())
    return _strips([(Label(" = ".join(name for name, _ in same)), same[0][1]) for same in alike])


def memory_and_time(frame: pd.DataFrame) -> View:
    """What each loaded combination cost: seconds to load and to run, and each device's peak against its capacity.

    The capacity is that of the simulated device, or what was free on the real one before the load; where neither is
    recorded the view says so. Accelerators have no column where no row has any.
    """
    loaded = frame[frame["load_seconds"].notna() & ~frame["status"].isin(["unsupported", "not_run"])]
    scales = loaded[["load_seconds", "forward_seconds"]].max()
    lines, texts = [], []
    peaks: dict[str, list[Peak]] = {"host": [], "devices": []}
    for rows in grouped(loaded):
        row, named = rows[0], label(rows)
        host, devices = [peak for peak in [host_peak(row)] if peak], device_peaks(row)
        peaks["host"] += host
        peaks["devices"] += devices
        load, forward = (_seconds(row[str(name)], scale) for name, scale in scales.items())
        lines.append({"label": named, "load": load, "forward": forward, "host": host, "devices": devices})
        took = [figure.text if figure else "?" for figure in (load, forward)]
        peak_text = peaks_in_words(row) or "?"
        texts.append(f"{named}: loads in {took[0]}, a forward takes {took[1]}, peaks at {peak_text}")
    tallest = {side: max((peak.peak for peak in found), default=0) for side, found in peaks.items()}
    bars, has_devices = explained([*peaks["host"], *peaks["devices"]]), bool(peaks["devices"])
    html = render("plots/memory_and_time", lines=lines, tallest=tallest, has_devices=has_devices, bars=bars)
    return View(html, _listed(texts) or "Nothing was loaded.")


def logit_difference(frame: pd.DataFrame) -> View:
    """How far each combination's answer is from its reference and from the unquantized model, and why it is so."""
    lines, texts = [], []
    for rows in grouped(frame[frame["max_abs_diff"].notna()]):
        row, named = rows[0], label(rows)
        word, reason = status_word(row["status"]), cell_text(row["reason"])
        figures = {"difference": _logarithmic(row["max_abs_diff"]), "quality": _logarithmic(row["quality_kl"])}
        lines.append({"label": named, "status": word, **figures, "reason": reason})
        distance = number_text(row["quality_kl"]) or "not measured"
        differ = f"logits differ by {number_text(row['max_abs_diff'])}"
        texts.append(f"{named}: {word.text}, {differ}, KL from the unquantized model {distance}. {reason}")
    return View(render("plots/logit_difference", lines=lines), _listed(texts) or "No answer was compared.")


def _strips(labelled: Iterable[tuple[Label, pd.DataFrame]]) -> View:
    """The strips of placement tables below their labels, with the legend."""
    drawn, texts = [], []
    for named, table in labelled:
        units, totals = strips.units(table), strips.totals(table)
        words, letters = strips.strip_in_words(units), "".join(unit.place.letter for unit in units)
        drawn.append({"label": named, "totals": totals, "stretches": strips.stretches(units), "words": words})
        texts.append(f"{named}   {totals}\n[{letters}]  {strips.counts(table)}\n{words}")
    legend = "; ".join(f"{place.letter} {text}" for place, text in _LEGEND)
    html = render("plots/strips", strips=drawn, legend=_LEGEND)
    return View(html, "\n\n".join([legend, *texts]) if texts else "No placement to show.")


def _listed(texts: list[str]) -> str:
    return "\n".join(wrapped(text, indent=2) for text in texts)


def _seconds(value: float, largest: float) -> Figure | None:
    """A time and its bar; None for a missing one."""
    return None if is_missing(value) else Figure(format_seconds(value), 100 * value / largest if largest else 0)


def _logarithmic(value: float) -> Figure | None:
    """A distance and its bar, which is logarithmic from 1e-9 to 100; None for a missing one."""
    if is_missing(value):
        return None
    share = 100 * (math.log10(value) + 9) / 11 if value > 0 and math.isfinite(value) else (0 if value == 0 else 100)
    return Figure(number_text(value), min(100, max(0, share)))
