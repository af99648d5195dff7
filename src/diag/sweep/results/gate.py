"""The gate: did a run come out as expected, worse than a baseline, or could nothing be judged. Pure.

The exit codes are frozen: 0 as expected; 1 a row got worse than the baseline (status, placement or answer, never
time); 2 wrong usage; 3 could not judge (no access, network, disk, GPU held by others); 4 the run died.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from diag.errors import DiagError
from diag.machine.environment import versions
from diag.sweep.results.baseline import Baseline
from diag.sweep.results.comparison import Change, compare_rows, match_rows, new_sentences, row_name
from diag.sweep.results.finality import RETRIED, others_took_the_memory
from diag.sweep.results.rows import could_not_judge, rows_of
from diag.sweep.results.store import Row
from diag.values.exits import Exit
from diag.values.text import first_line

_DEAD = frozenset({"killed", "timeout", "load_error", "forward_error"})


class GateFailed(DiagError):
    """The gate did not open; `exit_code` says why."""

    exit_code: Exit = Exit.WORSE


@dataclass(frozen=True)
class JudgedRow:
    """One row: `name`, `status`, `reason`, and how it stands: `same`, `worse`, `changed`, `new` or `unjudged`. `news`
    are the sentences of its reason that the baseline's row does not have."""

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
    rows: tuple[JudgedRow, ...]
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    baseline: str = ""

    def standing(self, word: str) -> tuple[JudgedRow, ...]:
        return tuple(row for row in self.rows if row.standing == word)

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "exit_code": int(self.exit_code), "outcome": self.exit_code.name.lower()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Gate:
        rows = [{**row, "changes": tuple(Change(**change) for change in row["changes"])} for row in value["rows"]]
        texts = (tuple(value["missing"]), tuple(value["warnings"]), value["baseline"])
        return cls(Exit(value["exit_code"]), value["headline"], tuple(JudgedRow(**row) for row in rows), *texts)

    def check(self) -> None:
        """Raises GateFailed unless the run came out as expected."""
        if self.exit_code is not Exit.AS_EXPECTED:
            error = GateFailed(self.headline, why=f"exit code {int(self.exit_code)}.", next_step=self._advice())
            error.exit_code = self.exit_code
            raise error

    def _advice(self) -> str:
        if self.exit_code is Exit.WORSE:
            return "see which rows got worse; if that is meant, make a new baseline with --write-baseline."
        if any(row.status in RETRIED for row in self.standing("unjudged")):
            return "remove what ended the loads and run again with --retry-failed."
        return "remove what kept it from judging and run again; finished rows are kept."


def gate_of(frame: pd.DataFrame, baseline: Baseline | None = None) -> Gate:
    """Holds a matrix frame against a baseline; without one, all that was judged is as expected.

    Worse wins over "could not judge": what got worse is known. A row that could not be judged, in a run with a
    baseline that has it judged, makes the whole run 3; without a baseline only if no row at all could be judged, or if
    every load died, timed out or failed: nothing is known then that could be as expected.
    """
    rows, has_baseline = rows_of(frame), baseline is not None
    partners, left = match_rows(() if baseline is None else baseline.rows, rows)
    judged = tuple(_judged(row, old, has_baseline) for row, old in zip(rows, partners))
    statuses = {row["status"] for row in rows}
    # Loads died or failed, and none gave an answer or met a limit that is expected (refused, no memory).
    is_dead = not has_baseline and bool(statuses & _DEAD) and not statuses & {"ok", "wrong_output", "out_of_memory"}
    if is_dead:
        judged = tuple(replace(one, standing="unjudged") if one.status in _DEAD else one for one in judged)
    not_saved = str(frame.attrs.get("not_saved") or "")
    standings = {one.standing for one in judged}
    lacks_some = has_baseline and ("unjudged" in standings or standings <= {"new"})
    nothing = is_dead or not_saved or all(could_not_judge(row) for row in rows)
    otherwise = Exit.NOT_JUDGED if nothing or lacks_some else Exit.AS_EXPECTED
    code = Exit.WORSE if "worse" in standings else otherwise
    models = dict.fromkeys(str(row["model"]) for row in rows)
    headline = _headline(code, ", ".join(models) or "the model", judged, has_baseline, not_saved)
    missing = tuple(row_name(old) for old in left)
    warnings = [] if baseline is None else _warnings(judged, missing, baseline, set(models))
    warnings += [f"Not every row was saved: {_title(not_saved)}"] if not_saved else []
    return Gate(code, headline, judged, missing, tuple(warnings), baseline.path if baseline else "")


def _judged(row: Row, old: Row | None, has_baseline: bool) -> JudgedRow:
    changes: tuple[Change, ...] = ()
    news, reason = "", str(row.get("reason") or "")
    if could_not_judge(row):
        standing = "same" if old is not None and could_not_judge(old) else "unjudged"
    elif old is None:
        standing = "new" if has_baseline else "same"
    else:
        changes = compare_rows(old, row)
        worse = any(change.worse for change in changes)
        standing = "worse" if worse else "changed" if changes else "same"
        if worse and others_took_the_memory(row):
            standing, reason = "unjudged", f"Others held the device. {reason}"
        elif changes:
            news = new_sentences(old, row)
    return JudgedRow(row_name(row), row["status"], standing, reason, changes, news)


def _headline(code: Exit, models: str, rows: Sequence[JudgedRow], has_baseline: bool, not_saved: str) -> str:
    combinations = f"{len(rows)} combinations of {models}"
    if code is Exit.WORSE:
        worse = [row for row in rows if row.standing == "worse"]
        first = f"{worse[0].name} first: {_title(worse[0].why)}"
        return f"Worse than the baseline: {len(worse)} of {combinations}, {first}"
    if code is Exit.NOT_JUDGED:
        unjudged = [row for row in rows if row.standing == "unjudged"]
        which = f"{len(unjudged)} of {combinations}" if 0 < len(unjudged) < len(rows) else models
        if unjudged or not_saved:
            why = _title(unjudged[0].reason if unjudged else not_saved)
        elif rows and all(row.standing == "new" for row in rows):
            why = "the baseline has no row in common with this run."
        else:
            why = _title(rows[0].reason) if rows else "nothing was asked."
        return f"Could not judge {which}: {why}"
    works = sum(row.status == "ok" for row in rows)
    against = ", as in the baseline" if has_baseline else ""
    against += " in all but the answers, which are not compared" if _asked_otherwise(rows) else ""
    return f"As expected: {works} of {combinations} work{against}"


def _asked_otherwise(rows: Sequence[JudgedRow]) -> int:
    """How many rows were asked something else than in the baseline."""
    return sum(any(change.kind == "probe" for change in row.changes) for row in rows)


def _title(text: str) -> str:
    """The first line without a full stop: a headline is a title."""
    return first_line(text).rstrip(".") or "no reason is known"


def _warnings(judged: Sequence[JudgedRow], missing: Sequence[str], baseline: Baseline, models: set[str]) -> list[str]:
    new, now = [row.name for row in judged if row.standing == "new"], versions()
    both = [(name, old, now.get(name, "absent")) for name, old in baseline.versions.items()]
    changed = [f"{name} {old} → {installed}" for name, old, installed in both if old != installed]
    others = _asked_otherwise(judged)
    found = [
        (new, f"{len(new)} rows are new, not in the baseline: {', '.join(new[:4])}."),
        (missing, f"{len(missing)} rows of the baseline were not asked for: {', '.join(missing[:4])}."),
        (models != baseline.models, f"The baseline was made for {', '.join(sorted(baseline.models))}."),
        (others, f"{others} rows were asked another probe than in the baseline, so their answers are not compared."),
        (changed, f"Other versions than in the baseline: {', '.join(changed)}."),
    ]
    return [text for is_so, text in found if is_so]
