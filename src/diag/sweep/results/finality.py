"""Which stored rows hold for the next run too, and which are done again. Pure.

A row holds if it says something about the model. A row without access, without room or `not_run` says nothing, so it
is always done again; so is a row that others spoilt by holding the device. A killed cell, a timeout and an
out-of-memory run again, and so does a cell whose twin could not be loaded; a row stays once it came out so in two
runs. Out-of-memory on simulated GPUs does not run again: it gives the same result every time.
"""

import json

from diag.sweep.results.comparison import facts
from diag.sweep.results.rows import could_not_judge
from diag.sweep.results.store import Row
from diag.values.spec import AUTO_PRESETS

RETRIED = ("killed", "timeout", "out_of_memory")
TRIES = 2
_STRANGERS = ("another user", "this user", "unknown")
_WORTH_NAMING = 0.02  # of the model's bytes: what a stranger with less holds explains no other placement


def is_final(row: Row, retry_failed: bool) -> bool:
    """Whether a stored row need not be done again; `retry_failed` does deaths again however often they came."""
    if (could_not_judge(row) and row["status"] != "unchecked") or others_may_have_changed(row):
        return False
    if not may_be_chance(row):
        return True
    return tries_of(row) >= TRIES and not (retry_failed and row["status"] in RETRIED)


def may_be_chance(row: Row) -> bool:
    """Whether another run may well come out otherwise."""
    if row["status"] == "out_of_memory" and row.get("simulated") and row.get("error_type") == "OutOfMemoryError":
        return False
    return row["status"] in (*RETRIED, "unchecked")


def tries_of(row: Row) -> int:
    """In how many runs one after the other this row came out by what may be chance, this one included."""
    return int(row.get("tries") or 1)


def counted(row: Row, before: int) -> Row:
    """The row with its number of tries, `before` of them in earlier runs; one that now stays says so."""
    tries = before + 1 if may_be_chance(row) else None
    if tries is None or tries < TRIES or row["status"] not in RETRIED:
        return {**row, "tries": tries}
    text = f"{row['reason']} It ended so in {tries} runs, and is tried again only with --retry-failed (or fresh)."
    return {**row, "tries": tries, "reason": text.strip()}


def others_took_the_memory(row: Row) -> bool:
    """Whether strangers held so much of a real device that they may explain how this row came out, for the worse."""
    if row.get("simulated") or row["status"] not in ("ok", "out_of_memory"):
        return False
    held = [one for one in json.loads(row.get("held_by") or "[]") if one["device"] != "cpu"]
    sizes = [one.get("nbytes") for one in held if one["owner"] in _STRANGERS]
    return None in sizes or sum(sizes) > _WORTH_NAMING * sum((facts(row).get("placed") or {}).values())


def others_may_have_changed(row: Row) -> bool:
    """Out of memory beside strangers, or weights that a preset which asks for free memory put elsewhere."""
    placed = facts(row).get("placed") or {}
    away = sum(size for place, size in placed.items() if place == "cpu" or place.startswith("offloaded"))
    may_be = row["status"] == "out_of_memory" or (row["device_map"] in AUTO_PRESETS and away > 0)
    return may_be and others_took_the_memory(row)
