"""Two real devices met in one operation: which tensors or inputs are on the other one. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from diag.diagnosis.evidence.record import Evidence, Row, names_of
from diag.diagnosis.evidence.texts import Mixed, mixed_devices
from diag.diagnosis.making import make
from diag.values.finding import Finding


def apart(e: Evidence, state: Sequence[Finding]) -> Iterator[Finding]:
    """What of a model and its inputs is on another device than the rest, where the error says that two met.

    A tensor whose hook runs it elsewhere is for the rules of the state; here the tensors stay where they are.
    """
    mixed = mixed_devices(e.report.text) if e.report is not None else None
    if mixed is None or mixed.with_meta or not e.has_state:
        return
    if any(one.tensors and one.cause in ("moved-after-dispatch", "submodule-replaced") for one in state):
        return
    rows = _rows_of_the_part(e)
    fixed = [row for row in rows if row.device not in ("", "meta") and not row.execution_device]
    homes = Counter[str]()
    for row in fixed:
        homes[row.device] += max(row.numel, 1)
    if not homes:
        return
    home = homes.most_common(1)[0][0]
    split = tuple(_split_ties(fixed))
    away = [row for row in fixed if row.device != home and _met(row.device, mixed)]
    if split:
        yield make("tied-weights-split", "shown", names_of(split), silent=False,
                   because=(f"They are declared tied, and are on {_devices(split)}.",))  # fmt: skip
    elif away:
        yield make("device-mismatch", "shown", names_of(away), silent=False,
                   because=(f"{len(away)} of {len(rows)} tensors are on {_devices(away)}, the rest on {home}, "
                            "and no hook carries anything over.",))  # fmt: skip
    elif len(homes) == 1:
        yield from _inputs_apart(e, home, mixed)


def _inputs_apart(e: Evidence, home: str, mixed: Mixed) -> Iterator[Finding]:
    given = e.inputs or (e.trace.inputs if e.trace else ())
    there = [(name, device) for name, device in given if device not in (home, "meta") and _met(device, mixed)]
    if there:
        devices = " and ".join(sorted({device for _, device in there}))
        said = f"In the call these were on {devices}, and every tensor of the model is on {home}."
        where = e.trace.module if e.trace else ""
        names = tuple(name for name, _ in there)
        yield make("device-mismatch", "shown", names, module=where, silent=False, because=(said,))


def _rows_of_the_part(e: Evidence) -> tuple[Row, ...]:
    """The rows of what failed: of a pipeline the one component, whose neighbours may well be elsewhere."""
    if e.facts is not None or e.trace is None:
        return e.rows if e.facts is not None else ()
    return tuple(row for row in e.rows if row.name.startswith(e.trace.component))


def _met(device: str, mixed: Mixed) -> bool:
    """Whether the message speaks of this device; some wordings name none."""
    return not mixed.expected or any(device in (said, f"{said}:0") for said in (mixed.expected, mixed.other))


def _split_ties(rows: Sequence[Row]) -> Iterator[Row]:
    for group in {row.tied_group for row in rows}:
        members = [row for row in rows if row.tied_group == group]
        if len({row.device for row in members}) > 1:
            yield from members


def _devices(rows: Sequence[Row]) -> str:
    return " and ".join(sorted({row.device for row in rows}))
