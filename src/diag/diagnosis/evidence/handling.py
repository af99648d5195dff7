"""What a live error says of a model whose weights are healthy: what the call did with them (`handling_of`), and where
two real devices met (`meeting_of`). Pure functions."""

from collections import Counter
from collections.abc import Iterator, Sequence

from diag.diagnosis.evidence import CallSite, Evidence, Handling, Meeting, Row
from diag.diagnosis.evidence.texts import Mixed
from diag.diagnosis.evidence.trace import Trace


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


def handling_of(e: Evidence) -> Handling | None:
    """None where the model is not healthy at rest, the error is not about meta, or the frames tell nothing."""
    if e.site is None or e.trace is None or e.orphans:
        return None
    trace, site = e.trace, e.site
    if site.placeholders and "share memory" in trace.report.text:
        return Handling.SAVED_SHARED
    if site.placeholders and "While copying the parameter" in trace.report.text:
        return Handling.GIVEN_TO_ANOTHER
    if not trace.is_about_meta:
        return None
    if site.inputs_on_meta:
        return Handling.INPUT_ON_META
    if not e.offloaded or trace.compiling:
        return None
    return Handling.INPUT_MADE_ON_META if _made_on_meta(e, trace, site) else _use_of_weights(trace, site)


def _made_on_meta(e: Evidence, trace: Trace, site: CallSite) -> bool:
    """generate() was called with real inputs, and what then was on meta is no weight: it made it on model.device."""
    was_input = trace.passes("accelerate/utils/operations.py") or trace.value_asked
    on_meta = e.facts is not None and e.facts.first_device == "meta"
    return was_input and on_meta and not site.tensors and trace.calls("generate")


def _use_of_weights(trace: Trace, site: CallSite) -> Handling | None:
    """What was done with weights that are offloaded and healthy; PEFT's own frames are judged by their text."""
    files = " ".join(frame.file for frame in trace.frames)
    if "/peft/" in files or "lora" in files:
        return None
    saves = trace.calls("save_pretrained", "save_file", "save_model")
    if saves or "safetensors" in files or "serialization" in files:
        return Handling.SAVED
    if site.placeholders or "state_dict" in (trace.site.code if trace.site else ""):
        return Handling.STATE_DICT_READ
    moved_module = trace.moved_module is not None or trace.passes("accelerate/big_modeling.py")
    if trace.copied_from_meta and moved_module:
        return Handling.MOVED
    if site.tensors and not site.own_forward:
        return Handling.READ_OUTSIDE
    if trace.hook_right_above and (site.tensors or (site.module and not site.fed_meta)):
        return Handling.META_AFTER_HOOK
    return Handling.CALLED_PAST_HOOK if site.tensors and trace.calls("forward") else None
