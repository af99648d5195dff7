"""Sorts the tensors without data by why nobody has it. Pure: from rows and facts to `Lost` values."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from diag.diagnosis.evidence import Evidence, Lack, Lost, ModelFacts, Row, names_of
from diag.models.adapters import LAYER_PARTS
from diag.models.backing import Absence


def with_state(e: Evidence, rows: tuple[Row, ...], facts: ModelFacts | None) -> Evidence:
    """The evidence with everything that rows and facts show together."""
    known = facts or ModelFacts()
    new = frozenset(row.name for row in rows if _is_new(row, known))
    e = replace(e, rows=rows, facts=facts, new_names=new, broken_ties=_broken_ties(known))
    offloaded = tuple(row for row in rows if row.backing == "offloaded")
    e = replace(e, orphans=tuple(row for row in rows if row.backing == "none"), offloaded=offloaded)
    lost = _grouped((_why_orphaned(row, e, known), row) for row in e.orphans)
    unserved = _grouped((_why_unserved(row, e, known), row) for row in rows if row.name in known.unserved)
    said = "Its hook fetches it before each forward from a store that has no such key."
    return replace(
        e,
        lost={lack: _lost(lack, group, e) for lack, group in lost.items()},
        unserved={lack: Lost(names_of(group), said, "shown") for lack, group in unserved.items()},
    )


def rows_of(table: pd.DataFrame) -> tuple[Row, ...]:
    """The rows of a placement table that was kept without its model."""
    rows = []
    for values in table.to_dict("records"):
        fields: dict[str, Any] = {name: _text(values.get(name)) for name in _TEXT_COLUMNS}
        fields |= {name: int(values.get(name, -1) or 0) for name in ("tied_group", "numel", "nbytes")}
        rows.append(Row(**fields))
    return tuple(rows)


_TEXT_COLUMNS = (
    *("name", "kind", "module", "module_class", "dtype", "device", "mapped_device", "execution_device"),
    *("backing", "quantization"),
)


def _text(value: object) -> str:
    """Missing values of a table (NA, NaN, None) are the empty text."""
    return value if isinstance(value, str) else ""


def _grouped(pairs: Iterable[tuple[Lack, Row]]) -> dict[Lack, list[Row]]:
    groups: dict[Lack, list[Row]] = {}
    for lack, row in pairs:
        groups.setdefault(lack, []).append(row)
    return groups


def _lost(lack: Lack, rows: list[Row], e: Evidence) -> Lost:
    are = "is" if len(rows) == 1 else "are"
    said = f"{len(rows)} of {len(e.rows)} tensors {are} on meta, and nobody has the data."
    plain = e.facts is not None or lack in (Lack.NEVER_FILLED, Lack.HOOK_LOST)  # a table alone shows these, too
    # A Linear or convolution without bias computes with random memory and raises nothing.
    silent = e.trace is None and all("Norm" not in r.module_class and r.local_name == "weight" for r in rows)
    return Lost(names_of(rows), said, "shown" if plain else "likely", rows[0].reason, silent)


def _why_orphaned(row: Row, e: Evidence, facts: ModelFacts) -> Lack:
    if row.kind == "quant_state":
        return Lack.STATE_ON_META
    if row.reason is Absence.FORWARD_BYPASSED:
        return Lack.FORWARD_BYPASSED
    if row.reason in (Absence.NOT_IN_STORE, Absence.FILE_MISSING):
        return Lack.NEWCOMER if row.name in e.new_names else Lack.NOT_IN_STORE
    if row.reason is Absence.STORE_IS_META:
        return Lack.NEVER_FILLED if _most_stores_are_meta(e) else Lack.NOT_IN_STORE
    if facts.is_adapter and row.mapped_device in ("cpu", "disk"):
        return Lack.ADAPTER_ON_OFFLOADED
    if _is_adapter_layer(row):
        return Lack.NEVER_FILLED
    if row.module in facts.stripped:
        return Lack.HOOK_LOST
    if row.name in e.new_names or row.module in facts.strays:
        return Lack.NEWCOMER
    if row.reason is Absence.NOT_BROUGHT_BACK:
        return Lack.NEVER_FILLED
    return _without_hook(row, e)


def _most_stores_are_meta(e: Evidence) -> bool:
    on_meta = sum(row.reason is Absence.STORE_IS_META for row in e.orphans)
    return 2 * on_meta > sum(row.kind == "parameter" for row in e.rows)


def _without_hook(row: Row, e: Evidence) -> Lack:
    """No store serves it: was there ever one? The map says whether it was meant to be offloaded."""
    meant_to_be = row.mapped_device in ("cpu", "disk")
    if row.execution_device and not row.reason:
        return Lack.FORWARD_BYPASSED if meant_to_be else Lack.NOT_IN_STORE  # a table alone can't tell
    if row.execution_device or meant_to_be:
        return Lack.HOOK_LOST
    tied = any(other.tied_group == row.tied_group and not other.is_orphan for other in e.rows)
    return Lack.TIE_SPLIT if tied else Lack.NEVER_FILLED


def _why_unserved(row: Row, e: Evidence, facts: ModelFacts) -> Lack:
    if any(other.tied_group == row.tied_group and other.name != row.name for other in e.rows):
        return Lack.TIE_SPLIT
    if facts.is_adapter and _is_adapter_layer(row):
        return Lack.ADAPTER_ON_OFFLOADED
    return Lack.NEWCOMER if row.name in e.new_names else Lack.NOT_IN_STORE


def _is_adapter_layer(row: Row) -> bool:
    return any(part in row.name for part in LAYER_PARTS)


def _is_new(row: Row, facts: ModelFacts) -> bool:
    return any(row.module == path or row.module.startswith(f"{path}.") for path in facts.newcomers)


def _broken_ties(facts: ModelFacts) -> tuple[tuple[str, str], ...]:
    """Lost ties of a source that is right itself; where the source is garbage, the tie is not what went wrong."""
    garbage = {*facts.wrong_values, *facts.not_finite, *facts.never_loaded}
    unfilled = len(facts.not_finite) > 1 and any(follower in garbage for follower, _ in facts.lost_ties)
    return () if unfilled else tuple((a, b) for a, b in facts.lost_ties if b not in garbage)
