"""The rows of two runs: which belong together, what changed between them in words, and what is for the worse. Pure.

Never time: seconds differ from run to run on a shared machine. The same judgement serves the gate and `diag diff`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diag.proving.proof import TOLERANCES
from diag.sweep.results.sketch import relative_distance
from diag.sweep.results.store import Json, Row
from diag.values.units import format_size

# How bad a status is. A refusal is known beforehand; a wrong answer without an error is the worst.
_FAILED = ("out_of_memory", "load_error", "forward_error", "killed", "timeout")
_BADNESS = {"ok": 0, "unsupported": 1, **dict.fromkeys(_FAILED, 2), "wrong_output": 3}
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9'“])")
_SAME_SIZE = 0.02  # share by which sizes may differ without being mentioned


@dataclass(frozen=True)
class Change:
    """One difference: `kind` is `status`, `placement`, `answer`, `probe`, `map`, `checkpoint` or `size`."""

    kind: str
    worse: bool
    text: str


def match_rows(old_rows: Sequence[Row], new_rows: Sequence[Row]) -> tuple[list[Row | None], list[Row]]:
    """The old row of each new one, None where there is none; and the old rows that are left. Rows belong together by
    their whole spec; of what is left, by map, quantization and hardware where that is one row on each side: so a model
    that is exported to a new folder every night, or another loader, still finds its rows."""
    left = list(old_rows)

    def taken(found: Sequence[Row]) -> Row | None:
        if found:
            left.remove(found[0])
        return found[0] if found else None

    partners = [taken([old for old in left if new.get("spec") and old.get("spec") == new["spec"]]) for new in new_rows]
    alone = [new for new, partner in zip(new_rows, partners) if partner is None]
    count = Counter(map(row_name, alone))
    for position, new in enumerate(new_rows):
        same = [old for old in left if row_name(old) == row_name(new)]
        if partners[position] is None and count[row_name(new)] == 1 and len(same) == 1:
            partners[position] = taken(same)
    return partners, left


def row_name(row: Row, with_model: bool = False) -> str:
    """A combination for people, such as `auto × nf4 on this machine`."""
    name = f"{row['device_map']} × {row['quantization']} on {row['hardware']}"
    return f"{row['model']}: {name}" if with_model else name


def compare_rows(old: Row, new: Row) -> tuple[Change, ...]:
    """Every change from `old` to `new`. The worst come first."""
    found = [*_status(old, new)]
    if old["status"] == new["status"]:
        found += [*_placement(old, new), *_answer(old, new)]
    before, after = facts(old).get("checkpoint"), facts(new).get("checkpoint")
    if before and after and before != after and old.get("model") == new.get("model"):
        found.append(Change("checkpoint", False, "the model's files changed in between"))
    return tuple(sorted([*found, *_map(old, new)], key=lambda change: not change.worse))


def new_sentences(old: Row, new: Row) -> str:
    """What the reason of `new` says and that of `old` did not: often the cause of what changed."""
    before, after = (_SENTENCE.split(str(row.get("reason") or "").strip()) for row in (old, new))
    return " ".join(one for one in after if one not in before)


def _status(old: Row, new: Row) -> Iterator[Change]:
    before, after = old["status"], new["status"]
    if before != after:
        worse = after in _BADNESS and before in _BADNESS and _BADNESS[after] > _BADNESS[before]
        reason = str(new.get("reason") or "").strip()
        yield Change("status", worse, f"was {before}, is {after}{': ' + reason if reason else ''}")
    elif before == "load_error" and old.get("error_type") != new.get("error_type"):
        yield Change("status", False, f"fails with {new.get('error_type')} and not with {old.get('error_type')}")


def _placement(old: Row, new: Row) -> Iterator[Change]:
    for name, word, more_is_worse in (("n_missing", "are missing", True), ("n_quantized", "are packed", False)):
        before, after = old.get(name), new.get(name)
        if before is not None and after is not None and before != after:
            worse = (after > before) == more_is_worse
            yield Change("placement", worse, f"{after} tensors {word}, and {before} were before")
    placed, placed_now = facts(old).get("placed"), facts(new).get("placed")
    if placed and placed_now:
        yield from _moved(placed, placed_now)


def _moved(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Change]:
    """Worse: more bytes offloaded or missing, or fewer on an accelerator."""
    total = max(sum(before.values()), 1)
    change = {place: after.get(place, 0) - before.get(place, 0) for place in sorted({*before, *after})}
    away = sum(more for place, more in change.items() if place.startswith("offloaded") or place == "nowhere")
    fast = sum(change.values()) - away - change.get("cpu", 0)
    worse = away > 0 or -fast > _SAME_SIZE * total
    if worse or any(abs(more) > _SAME_SIZE * total for more in change.values()):
        sizes = {place: (before.get(place, 0), after.get(place, 0)) for place, more in change.items() if more}
        text = "; ".join(f"{place}: {format_size(a)} → {format_size(b)}" for place, (a, b) in sizes.items())
        yield Change("placement", worse, f"weights moved: {text}")


def _answer(old: Row, new: Row) -> Iterator[Change]:
    """Within the tolerance of the dtype, and of the text where there is no sketch, answers are the same."""
    a, b = facts(old), facts(new)
    if a.get("digest") and a.get("digest") == b.get("digest"):
        return
    if "probe" in a and "probe" in b and a["probe"] != b["probe"]:
        yield Change("probe", False, f"was asked {b['probe']!r} and not {a['probe']!r}: answers are not compared")
        return
    apart = relative_distance(str(b.get("sketch") or ""), str(a.get("sketch") or ""))
    before, after = old.get("answer"), new.get("answer")
    said = f": “{after}” instead of “{before}”" if before != after else ""
    if apart is not None:
        if apart > TOLERANCES.get(str(a.get("dtype")), 1e-3):
            yield Change("answer", True, f"the answer is off by about {apart:.2g} of its size{said}")
    elif said:
        yield Change("answer", True, f"the answer changed{said}")
    elif a.get("digest") and b.get("digest"):
        yield Change("answer", True, "the answer is another one, and how far it is off can't be told")


def _map(old: Row, new: Row) -> Iterator[Change]:
    before, after = facts(old).get("map"), facts(new).get("map")
    if before is None or after is None or before == after:
        return
    a, b = json.loads(before), json.loads(after)
    moved = [name for name in b if a.get(name) != b[name]]
    gone = [name for name in a if name not in b]
    example = f", {moved[0]!r} from {a.get(moved[0], 'nowhere')} to {b[moved[0]]} first" if moved else ""
    yield Change("map", False, f"the device map changed in {len(moved) + len(gone)} entries{example}")


def facts(row: Row) -> Json:
    """What a row keeps for comparisons (`rows.measured_row`); empty where it has nothing."""
    return row.get("facts") or {}
