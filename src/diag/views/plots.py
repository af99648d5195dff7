"""Pictures of a matrix: placement strips, memory and time, distance to the reference. HTML and text, no script.

They are drawn as HTML with real text in it rather than as images: they follow the reader's theme and width, print,
can be read aloud, and cost a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

import diag
from diag.errors import DiagError
from diag.values.spec import LoadSpec
from diag.values.text import wrapped
from diag.values.units import format_seconds, is_missing
from diag.views import strips
from diag.views.capacity import device_peaks, explained, host_peak, peaks_in_words, picture
from diag.views.markup import View, breakable, escape, table, tag
from diag.views.rows import described, grouped, label, plain_label
from diag.views.wording import cell_text, number_text, status_word

_LEGEND = (
    (strips.Place("simgpu:0"), "on accelerator 0, 1, …"),
    (strips.Place("cpu"), "on the CPU"),
    (strips.Place("cpu", offloaded=True), "offloaded to CPU memory: fetched for each forward"),
    (strips.Place("disk", offloaded=True), "offloaded to disk: fetched for each forward"),
    (strips.Place(strips.MISSING), "missing: on meta, and nobody holds the data"),
)


def placement_strips(specs: Sequence[LoadSpec], results: str = "results.sqlite") -> View:
    """One strip per different placement among the stored rows of `specs`: layers left to right, each where it is.

    Device maps that placed alike share a strip. Combinations without a stored placement (refused, failed) have none.
    """
    several = len({spec.model for spec in specs}) > 1
    together: dict[tuple[Any, ...], list[Mapping[str, str]]] = {}
    tables: dict[tuple[Any, ...], pd.DataFrame] = {}
    for spec in specs:
        stored = _stored(results, spec)
        if stored is not None and len(stored):
            key = (spec.model, spec.quantization, spec.hardware, strips.units(stored), strips.totals(stored))
            together.setdefault(key, []).append(described(spec))
            tables[key] = stored
    names = {key: f"{escape(key[0])} · " if several else "" for key in tables}
    return _drawn([_strip(names[key] + label(same), plain_label(same), tables[key]) for key, same in together.items()])


def strips_of(tables: Mapping[str, pd.DataFrame]) -> View:
    """One strip per different placement among `tables`, which maps a name of one's own to its placement table."""
    together: dict[tuple[Any, ...], list[str]] = {}
    for name, stored in tables.items():
        together.setdefault((strips.units(stored), strips.totals(stored)), []).append(name)
    headings = [" = ".join(names) for names in together.values()]
    first = [tables[names[0]] for names in together.values()]
    return _drawn([_strip(breakable(heading), heading, stored) for heading, stored in zip(headings, first)])


def memory_and_time(frame: pd.DataFrame) -> View:
    """What each loaded combination cost: seconds to load and to run, and each device's peak against its capacity.

    The capacity is that of the simulated device, or what was free on the real one before the load; where neither is
    recorded the view says so. Accelerators have no column where no row has any.
    """
    loaded = frame[frame["load_seconds"].notna() & ~frame["status"].isin(["unsupported", "not_run"])]
    groups = grouped(loaded)
    peaks = [([host] if (host := host_peak(row)) else [], device_peaks(row)) for _, row in groups]
    scales = [_largest(loaded, name) for name in ("load_seconds", "forward_seconds")]
    tallest = [max([0, *(peak.peak for pair in peaks for peak in pair[side])]) for side in (0, 1)]
    kept = 5 if any(devices for _, devices in peaks) else 4
    lines = [
        (
            label(rows),
            _bar(row["load_seconds"], scales[0], format_seconds),
            _bar(row["forward_seconds"], scales[1], format_seconds),
            *("".join(picture(peak, tallest[side]) for peak in pair[side]) for side in (0, 1)),
        )[:kept]
        for (rows, row), pair in zip(groups, peaks)
    ]
    texts = [
        f"{plain_label(rows)}: loads in {format_seconds(row['load_seconds']) or '?'}, a forward takes "
        f"{format_seconds(row['forward_seconds']) or '?'}, peaks at {peaks_in_words(row) or '?'}"
        for rows, row in groups
    ]
    bars = explained([peak for pair in peaks for side in pair for peak in side])
    caption = f"Peaks are the rise while loading. {bars} Combinations that place alike share one load and a line."
    columns = ("combination", "loads in", "a forward takes", "host peak", "device peaks")[:kept]
    return View(table(columns, lines, caption.replace("  ", " ")), _listed(texts) or "Nothing was loaded.")


def logit_difference(frame: pd.DataFrame) -> View:
    """How far each combination's answer is from its reference and from the unquantized model, and why it is so."""
    judged = frame[frame["max_abs_diff"].notna()]
    groups = grouped(judged)
    columns = ("combination", "verdict", "largest logit difference", "from the unquantized model", "what the row says")
    lines = [
        (
            label(rows),
            status(row["status"]),
            _log_bar(row["max_abs_diff"]),
            _log_bar(row["quality_kl"]),
            breakable(cell_text(row["reason"])),
        )
        for rows, row in groups
    ]
    texts = [
        f"{plain_label(rows)}: {status_word(row['status']).text}, logits differ by {number_text(row['max_abs_diff'])}, "
        f"KL from the unquantized model {number_text(row['quality_kl']) or 'not measured'}. {cell_text(row['reason'])}"
        for rows, row in groups
    ]
    caption = (
        "The reference is the same checkpoint and quantization on the CPU without a map; 0 means equal bit for bit. "
        "The distance to the unquantized model is a KL divergence in nats per token: quality, which decides nothing. "
        "Bars are logarithmic from 1e-9 to 100."
    )
    return View(table(columns, lines, caption), _listed(texts) or "No answer was compared.")


def status(value: Any) -> str:
    """A status as sign and word."""
    word = status_word(value)
    return tag("span", escape(f"{word.sign} {word.text}"), class_=f"status {word.tone}", title=word.meaning)


def _stored(results: str, spec: LoadSpec) -> pd.DataFrame | None:
    try:
        return diag.placement_of(results, spec)
    except DiagError:
        return None


def _drawn(drawn: list[View]) -> View:
    if not drawn:
        return View(tag("p", "No combination was loaded, so there is no placement to show."), "No placement to show.")
    pictures = tag("ul", "".join(view.html for view in drawn), class_="strips")
    return _legend() + View(pictures, "\n\n".join(view.text for view in drawn))


def _strip(heading: str, plain_heading: str, stored: pd.DataFrame) -> View:
    units, totals = strips.units(stored), strips.totals(stored)
    cells = "".join(_run(run) for run in strips.runs(units))
    words = strips.describe(units)
    picture = (
        tag("div", tag("strong", heading) + f" {tag('span', escape(totals), class_='soft')}")
        + tag("div", cells, class_="strip", aria_hidden="true")
        + tag("div", escape(words), class_="soft")
    )
    text = f"{plain_heading}   {totals}\n[{strips.letters(units)}]  {strips.counts(stored)}\n{words}"
    return View(tag("li", picture), text)


def _run(run: strips.Run) -> str:
    width = len(run.units)
    return tag(
        "div",
        tag("span", escape(run.letter)),
        class_=f"run {run.place.style}",
        style=f"flex-grow:{width}",
        title=f"{run.names}: {run.place.text}",
    )


def _legend() -> View:
    items = "".join(
        tag("li", tag("span", tag("span", escape(place.letter)), class_=f"run {place.style}") + escape(text))
        for place, text in _LEGEND
    )
    text = "; ".join(f"{place.letter} {text}" for place, text in _LEGEND)
    return View(tag("ul", items, class_="legend", aria_label="Legend"), text)


def _listed(texts: list[str]) -> str:
    return "\n".join(wrapped(text, indent=2) for text in texts)


def _largest(frame: pd.DataFrame, column: str) -> float:
    values = frame[column].dropna()
    return float(values.max()) if len(values) else 0.0


def _bar(value: Any, largest: float, wording: Any) -> str:
    if is_missing(value):
        return ""
    share = 100 * float(value) / largest if largest else 0
    return _track(wording(value), share)


def _log_bar(value: Any) -> str:
    if is_missing(value):
        return ""
    value = float(value)
    share = 100 * (math.log10(value) + 9) / 11 if value > 0 and math.isfinite(value) else (0 if value == 0 else 100)
    return _track(number_text(value), min(100, max(0, share)))


def _track(text: str, share: float) -> str:
    bar = tag("span", class_="bar", style=f"width:{share:.1f}%", aria_hidden="true") if share else ""
    return tag("span", tag("span", escape(text), class_="number") + bar, class_="track")
