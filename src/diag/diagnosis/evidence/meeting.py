"""Two real devices met in one operation: which tensors or inputs are on the other one. Pure functions."""

from collections import Counter
from collections.abc import Iterator, Sequence

from diag.diagnosis.evidence import Evidence, Meeting, Row
from diag.diagnosis.evidence.texts import Mixed


def meeting_of(e: Evidence) -> Meeting | None:
    """What of a model and its inputs is on another device than the rest, where the error says that two met.

    A tensor whose hook runs it elsewhere is for the rules of the state; here the tensors stay where they are.
    """
    mixed = e.trace.mixed if e.trace is not None else None
    if mixed is None or mixed.with_meta or not e.rows:
        return None
    rows = _rows_of_the_part(e)
    fixed = [row for row in rows if row.device not in ("", "meta") and not row.execution_device]
    homes = Counter[str]()
    for row in fixed:
        homes[row.device] += max(row.numel, 1)
    if not homes:
        return None
    home = homes.most_common(1)[0][0]
    away = tuple(row for row in fixed if row.device != home and _met(row.device, mixed))
    inputs = _inputs_elsewhere(e, home, mixed) if len(homes) == 1 else ()
    return Meeting(home, len(rows), tuple(_split_ties(fixed)), away, inputs)


def _inputs_elsewhere(e: Evidence, home: str, mixed: Mixed) -> tuple[tuple[str, str], ...]:
    given = e.inputs or (e.site.inputs if e.site else ())
    return tuple((name, device) for name, device in given if device not in (home, "meta") and _met(device, mixed))


def _rows_of_the_part(e: Evidence) -> tuple[Row, ...]:
    """The rows of what failed: of a pipeline the one component, whose neighbours may well be elsewhere."""
    if e.facts is not None:
        return e.rows
    return tuple(row for row in e.rows if e.site is not None and row.name.startswith(e.site.component))


def _met(device: str, mixed: Mixed) -> bool:
    """Whether the message speaks of this device; some wordings name none."""
    return not mixed.expected or any(device in (said, f"{said}:0") for said in (mixed.expected, mixed.other))


def _split_ties(rows: Sequence[Row]) -> Iterator[Row]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.tied_group, []).append(row)
    for members in groups.values():
        if len({row.device for row in members}) > 1:
            yield from members
