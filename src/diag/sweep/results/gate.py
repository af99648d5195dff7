"""The gate: did a run come out as expected, worse than a baseline, or could nothing be judged. Pure.

The exit codes are frozen: 0 as expected; 1 a row got worse than the baseline (status, placement or answer, never
time); 2 wrong usage; 3 could not judge (no access, network, disk, GPU held by others); 4 the run died.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from diag.errors import DiagError
from diag.sweep.results.baseline import Baseline
from diag.sweep.results.comparison import Change, compare_rows, new_sentences, row_name
from diag.sweep.results.finality import RETRIED, others_took_the_memory
from diag.sweep.results.rows import could_not_judge
from diag.values.exits import Exit
from diag.values.text import first_line

_DEAD = frozenset({"killed", "timeout", "load_error", "forward_error"})


class GateFailed(DiagError):
    """The gate did not open; `exit_code` says why."""

    exit_code: Exit = Exit.WORSE


@dataclass(frozen=True)
class Verdict:
    """One row: `name`, `status`, `reason`, and how it stands: `same`, `worse`, `changed`, `new` or `unjudged`.

    `news` are the sentences of its reason that the baseline's row does not have.
    """

    name: str
    status: str
    standing: str
    reason: str
    changes: tuple[Change, ...] = ()
    news: str = ""

    @property
    def why(self) -> str:
        """What changed, and what the row knows of it that was not so before."""
        text = "; ".join(change.text for change in self.changes if change.worse or self.standing != "worse")
        return f"{text}. {self.news}" if text and self.news and self.news not in text else text


@dataclass(frozen=True)
class Gate:
    """What a run comes to. `missing` are rows of the baseline that were not asked for; they only warn."""

    exit_code: Exit
    headline: str
    rows: tuple[Verdict, ...]
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    baseline: str = ""

    def standing(self, word: str) -> tuple[Verdict, ...]:
        return tuple(row for row in self.rows if row.standing == word)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "exit_code": int(self.exit_code), "outcome": self.exit_code.name.lower()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Gate:
        rows = [{**row, "changes": tuple(Change(**change) for change in row["changes"])} for row in value["rows"]]
        return cls(Exit(value["exit_code"]), value["headline"], tuple(Verdict(**row) for row in rows),
                   tuple(value["missing"]), tuple(value["warnings"]), value["baseline"])  # fmt: skip

    def check(self) -> None:
        """Raises GateFailed unless the run came out as expected."""
        if self.exit_code is not Exit.AS_EXPECTED:
            error = GateFailed(self.headline, why=f"exit code {int(self.exit_code)}.", next_step=_advice(self))
            error.exit_code = self.exit_code
            raise error


def judge(frame: pd.DataFrame, baseline: Baseline | None = None) -> Gate:
    """Holds a matrix frame against a baseline; without one, all that was judged is as expected.

    Worse wins over "could not judge": what got worse is known. A row that could not be judged, in a run with a
    baseline that has it judged, makes the whole run 3; without a baseline only if no row at all could be judged, or if
    every load died, timed out or failed: nothing is known then that could be as expected.
    """
    rows = rows_of(frame)
    partners, missing = _partners(rows, baseline)
    verdicts = tuple(_verdict(row, partner, baseline) for row, partner in zip(rows, partners))
    dead = baseline is None and _nothing_came_back(rows)
    if dead:
        verdicts = tuple(replace(one, standing="unjudged") if one.status in _DEAD else one for one in verdicts)
    warnings = [*_warnings(verdicts, missing, baseline, rows), *_not_saved(frame)]
    nothing = dead or all(could_not_judge(row) for row in rows) or bool(frame.attrs.get("not_saved"))
    code = _exit_code(verdicts, baseline, nothing)
    headline = _headline(code, verdicts, rows, baseline, frame)
    return Gate(code, headline, verdicts, missing, tuple(warnings), baseline.path if baseline else "")


def _nothing_came_back(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether loads died or failed, and none gave an answer or met a limit that is expected (refused, no memory)."""
    statuses = {row["status"] for row in rows}
    return bool(statuses & _DEAD) and not statuses & {"ok", "wrong_output", "out_of_memory"}


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain values, with the spec and the facts that have no column where the frame still carries them."""
    columns = json.loads(frame.to_json(orient="records"))
    beside = frame.attrs.get("rows") or []
    if len(beside) != len(columns):
        beside = [{}] * len(columns)
    return [{**row, **extra} for row, extra in zip(columns, beside)]


def _partners(
    rows: Sequence[Mapping[str, Any]], baseline: Baseline | None
) -> tuple[list[Mapping[str, Any] | None], tuple[str, ...]]:
    """Each row's row in the baseline: by its whole spec, else by map, quantization and hardware where that is one.

    So a model that is exported to a new folder every night, or another loader, still finds its rows.
    """
    if baseline is None:
        return [None] * len(rows), ()
    left = list(baseline.rows)
    partners: list[Mapping[str, Any] | None] = []
    for row in rows:
        partner = next((old for old in left if row.get("spec") and old.get("spec") == row["spec"]), None)
        partners.append(partner)
        if partner is not None:
            left.remove(partner)
    for position, row in enumerate(rows):
        same = [old for old in left if _combination(old) == _combination(row)]
        alone = sum(_combination(row) == _combination(other) for other in rows) == 1
        if partners[position] is None and alone and len(same) == 1:
            partners[position] = same[0]
            left.remove(same[0])
    return partners, tuple(row_name(old) for old in left)


def _combination(row: Mapping[str, Any]) -> tuple[str, ...]:
    return str(row["device_map"]), str(row["quantization"]), str(row["hardware"])


def _verdict(row: dict[str, Any], old: Mapping[str, Any] | None, baseline: Baseline | None) -> Verdict:
    name, reason = row_name(row), str(row.get("reason") or "")
    if could_not_judge(row):
        expected = old is not None and could_not_judge(dict(old))
        return Verdict(name, row["status"], "same" if expected else "unjudged", reason)
    if old is None:
        return Verdict(name, row["status"], "same" if baseline is None else "new", reason)
    changes = compare_rows(old, row)
    worse = any(change.worse for change in changes)
    if worse and others_took_the_memory(row):
        return Verdict(name, row["status"], "unjudged", f"Others held the device. {reason}", changes)
    standing = "worse" if worse else "changed" if changes else "same"
    return Verdict(name, row["status"], standing, reason, changes, new_sentences(old, row) if changes else "")


def _exit_code(verdicts: Sequence[Verdict], baseline: Baseline | None, nothing: bool) -> Exit:
    standings = [verdict.standing for verdict in verdicts]
    if "worse" in standings:
        return Exit.WORSE
    if nothing or (baseline is not None and "unjudged" in standings):
        return Exit.NOT_JUDGED
    nothing_in_common = baseline is not None and all(standing == "new" for standing in standings)
    return Exit.NOT_JUDGED if nothing_in_common else Exit.AS_EXPECTED


def _headline(
    code: Exit, verdicts: Sequence[Verdict], rows: Sequence[dict[str, Any]], baseline: Baseline | None, frame: Any
) -> str:
    models = ", ".join(dict.fromkeys(str(row["model"]) for row in rows)) or "the model"
    works = sum(row["status"] == "ok" for row in rows)
    if code is Exit.WORSE:
        worse = [verdict for verdict in verdicts if verdict.standing == "worse"]
        return f"Worse than the baseline: {len(worse)} of {len(rows)} combinations of {models}, {_first(worse[0])}"
    if code is Exit.NOT_JUDGED:
        unjudged = [verdict for verdict in verdicts if verdict.standing == "unjudged"]
        if unjudged:
            which = "" if len(unjudged) == len(rows) else f"{len(unjudged)} of {len(rows)} combinations of "
            return f"Could not judge {which}{models}: {_one_line(unjudged[0].reason)}"
        if frame.attrs.get("not_saved"):
            return f"Could not judge {models}: {_one_line(frame.attrs['not_saved'])}"
        if rows and all(could_not_judge(row) for row in rows):
            return f"Could not judge {models}: {_one_line(rows[0].get('reason'))}"
        return f"Could not judge {models}: " + ("nothing was asked." if not rows else
                                                 "the baseline has no row in common with this run.")  # fmt: skip
    against = "" if baseline is None else ", as in the baseline"
    against += " in all but the answers, which are not compared" if _asked_otherwise(verdicts) else ""
    return f"As expected: {works} of {len(rows)} combinations of {models} work{against}"


def _asked_otherwise(verdicts: Sequence[Verdict]) -> list[str]:
    """Rows that were asked something else than in the baseline."""
    return [one.name for one in verdicts if any(change.kind == "probe" for change in one.changes)]


def _first(verdict: Verdict) -> str:
    return f"{verdict.name} first: {first_line(verdict.why).rstrip('.') or 'no reason is known'}"


def _one_line(text: object) -> str:
    """Without a full stop: a headline is a title."""
    return first_line(text).rstrip(".") or "no reason is known"


def _warnings(
    verdicts: Sequence[Verdict], missing: Sequence[str], baseline: Baseline | None, rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    if baseline is None:
        return []
    new = [verdict.name for verdict in verdicts if verdict.standing == "new"]
    found = [f"{len(new)} rows are new, not in the baseline: {', '.join(new[:4])}."] if new else []
    if missing:
        found.append(f"{len(missing)} rows of the baseline were not asked for: {', '.join(missing[:4])}.")
    models = {str(row["model"]) for row in rows}
    if models != baseline.models:
        found.append(f"The baseline was made for {', '.join(sorted(baseline.models))}.")
    if others := _asked_otherwise(verdicts):
        found.append(
            f"{len(others)} rows were asked another probe than in the baseline, so their answers are not compared."
        )
    found += _versions_changed(baseline)
    return found


def _versions_changed(baseline: Baseline) -> list[str]:
    from diag.sweep.keys import versions

    now = versions()
    changed = [
        f"{name} {old} → {now.get(name, 'absent')}" for name, old in baseline.versions.items() if now.get(name) != old
    ]
    return [f"Other versions than in the baseline: {', '.join(changed)}."] if changed else []


def _not_saved(frame: pd.DataFrame) -> list[str]:
    text = frame.attrs.get("not_saved")
    return [f"Not every row was saved: {first_line(text).rstrip('.')}"] if text else []


def _advice(gate: Gate) -> str:
    if gate.exit_code is Exit.WORSE:
        return "see which rows got worse; if that is meant, make a new baseline with --write-baseline."
    if any(row.status in RETRIED for row in gate.standing("unjudged")):
        return "remove what ended the loads and run again with --retry-failed."
    return "remove what kept it from judging and run again; finished rows are kept."
