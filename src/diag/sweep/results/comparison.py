"""What changed between two rows of the same combination, in words, and which changes are for the worse. Pure.

Never time: seconds differ from run to run on a shared machine. The same judgement serves the gate and `diag diff`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diag.proving.comparing import TOLERANCES
from diag.sweep.results.sketch import relative_distance
from diag.values.units import format_size

# How bad a status is. A refusal is known beforehand; a wrong answer without an error is the worst.
_BADNESS = {
    "ok": 0, "unsupported": 1, "out_of_memory": 2, "load_error": 2, "forward_error": 2, "killed": 2, "timeout": 2,
    "wrong_output": 3,
}  # fmt: skip
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9'“])")
_SAME_SIZE = 0.02  # share by which sizes may differ without being mentioned


@dataclass(frozen=True)
class Change:
    """One difference: `kind` is `status`, `placement`, `answer`, `map`, `checkpoint` or `size`; `text` says it."""

    kind: str
    worse: bool
    text: str


def compare_rows(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Every change from `old` to `new`, both as a results file or a baseline keeps them. The worst come first."""
    found = [*_status(old, new)]
    if not found or old["status"] == new["status"]:
        found += [*_placement(old, new), *_answer(old, new)]
    found += [*_files(old, new), *_map(old, new)]
    return tuple(sorted(found, key=lambda change: not change.worse))


def row_name(row: Mapping[str, Any], with_model: bool = False) -> str:
    """A combination for people.

    >>> row_name({"device_map": "auto", "quantization": "nf4", "hardware": "this machine"})
    'auto × nf4 on this machine'
    """
    name = f"{row['device_map']} × {row['quantization']} on {row['hardware']}"
    return f"{row['model']}: {name}" if with_model else name


def new_sentences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What the reason of `new` says and that of `old` did not: often the cause of what changed.

    >>> new_sentences({"reason": "It works."}, {"reason": "It works. 9 tensors are not in the checkpoint."})
    '9 tensors are not in the checkpoint.'
    """
    before = set(_SENTENCE.split(str(old.get("reason") or "").strip()))
    return " ".join(one for one in _SENTENCE.split(str(new.get("reason") or "").strip()) if one not in before)


def _status(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = old["status"], new["status"]
    if before != after:
        worse = after in _BADNESS and before in _BADNESS and _BADNESS[after] > _BADNESS[before]
        reason = str(new.get("reason") or "").strip()
        yield Change("status", worse, f"was {before}, is {after}{': ' + reason if reason else ''}")
    elif before == "load_error" and old.get("error_type") != new.get("error_type"):
        yield Change("status", False, f"fails with {new.get('error_type')} and not with {old.get('error_type')}")


def _placement(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name, word, more_is_worse in (("n_missing", "are missing", True), ("n_quantized", "are packed", False)):
        before, after = old.get(name), new.get(name)
        if before is not None and after is not None and before != after:
            worse = (after > before) == more_is_worse
            yield Change("placement", worse, f"{after} tensors {word}, and {before} were before")
    before, after = _placed(old), _placed(new)
    if before and after and before != after:
        yield from _moved(before, after)


def _moved(before: dict[str, int], after: dict[str, int]) -> Iterator[Change]:
    """Worse: more bytes offloaded or missing, or fewer on an accelerator."""
    offloaded = _sum(after, _is_away) - _sum(before, _is_away)
    left = _sum(before, _is_fast) - _sum(after, _is_fast)
    total = max(sum(before.values()), 1)
    text = "; ".join(
        f"{place}: {format_size(before.get(place, 0))} → {format_size(after.get(place, 0))}"
        for place in sorted({*before, *after})
        if before.get(place, 0) != after.get(place, 0)
    )
    worse = offloaded > 0 or left > _SAME_SIZE * total
    if worse or any(abs(before.get(p, 0) - after.get(p, 0)) > _SAME_SIZE * total for p in {*before, *after}):
        yield Change("placement", worse, f"weights moved: {text}")


def _answer(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Within the tolerance of the dtype, and of the text where there is no sketch, answers are the same."""
    a, b = old.get("facts") or {}, new.get("facts") or {}
    if a.get("digest") and a.get("digest") == b.get("digest"):
        return
    if a.get("probe") != b.get("probe") and a and b and "probe" in a and "probe" in b:
        yield Change("probe", False, f"was asked {b['probe']!r} and not {a['probe']!r}: answers are not compared")
        return
    apart = relative_distance(str(b.get("sketch") or ""), str(a.get("sketch") or ""))
    said = _said(old, new)
    if apart is None:
        if said:
            yield Change("answer", True, f"the answer changed{said}")
        elif a.get("digest") and b.get("digest"):
            yield Change("answer", True, "the answer is another one, and how far it is off can't be told")
        return
    if apart > TOLERANCES.get(str(a.get("dtype")), 1e-3):
        yield Change("answer", True, f"the answer is off by about {apart:.2g} of its size{said}")


def _said(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = old.get("answer"), new.get("answer")
    return f": “{after}” instead of “{before}”" if before != after else ""


def _files(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = ((row.get("facts") or {}).get("checkpoint") for row in (old, new))
    if before and after and before != after and old.get("model") == new.get("model"):
        yield Change("checkpoint", False, "the model's files changed in between")


def _map(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = ((row.get("facts") or {}).get("map") for row in (old, new))
    if before is None or after is None or before == after:
        return
    a, b = json.loads(before), json.loads(after)
    moved = [name for name in b if a.get(name) != b[name]]
    gone = [name for name in a if name not in b]
    example = f", {moved[0]!r} from {a.get(moved[0], 'nowhere')} to {b[moved[0]]} first" if moved else ""
    yield Change("map", False, f"the device map changed in {len(moved) + len(gone)} entries{example}")


def _placed(row: Mapping[str, Any]) -> dict[str, int]:
    return dict((row.get("facts") or {}).get("placed") or {})


def _is_away(place: str) -> bool:
    return place.startswith("offloaded") or place == "nowhere"


def _is_fast(place: str) -> bool:
    return not _is_away(place) and place != "cpu"


def _sum(placed: Mapping[str, int], which: Any) -> int:
    return sum(size for place, size in placed.items() if which(place))
