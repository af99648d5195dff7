"""A matrix frame in words and tables: headline, overview, answers, failures with their cause, every figure."""

import re
from collections.abc import Iterable
from numbers import Real

import pandas as pd

from diag.diagnosis.engine import diagnose
from diag.proving.inputs import DEFAULT_PROMPT
from diag.sweep.results.gate import Gate
from diag.values.text import capital, count_text, first_line, wrapped
from diag.values.units import format_seconds, format_size, is_missing
from diag.views.markup import View, render
from diag.views.report.verdict import VERDICT_MIME, verdict_of
from diag.views.rows import Group, grouped, label, machine_text, simulated_text, together
from diag.views.wording import THIS_MACHINE, Word, cell_text, map_text, number_text, status_word

_TEXT_LIMIT = 400  # characters of a cell
_CAUSE = re.compile(r"Cause: (?P<id>[a-z0-9-]+) \((?P<title>.*?)\)\.?(?=\s|$)")  # as a row's reason names it


def headline(frame: pd.DataFrame, gate: Gate | None = None) -> View:
    """The verdict first: how many combinations work, which one to use here, and why.

    A gate that has something to say (a baseline was given, or the run is not as expected) says it before all that.
    """
    verdict = verdict_of(frame)
    beside = verdict.to_json() if gate is None else {**verdict.to_json(), "gate": gate.to_json()}
    said = gate if gate is not None and (gate.exit_code or gate.baseline) else None
    if said is not None:
        beside |= {"headline": said.headline, "exit_code": int(said.exit_code)}
    title = verdict.headline if said is None else said.headline
    unjudged = f"{verdict.unjudged}." if verdict.unjudged and (said is None or verdict.unjudged != title) else ""
    best, smallest = verdict.best, verdict.smallest
    lead, warnings = ("", ()) if said is None else (f"{verdict.headline}.", said.warnings)
    tally = [(count, status_word(name)) for name, count in verdict.counts]
    outcome = {"title": title, "lead": lead, "warnings": warnings, "tally": tally, "unjudged": unjudged}
    because = "" if best is None else capital(best.because)
    html = render("report/headline", **outcome, best=best, because=because, smallest=smallest)
    counts = "" if verdict.unjudged else f" ({verdict.counts_text})"  # what was not judged did not fail
    words = [f"{verdict.headline}{counts}.", *([unjudged] if unjudged else [])]
    words.append("None works." if best is None else f"Use {best.code} {best.where}: {best.because}.")
    words += [] if smallest is None else [f"Short of memory? {smallest.code} {smallest.because}."]
    before = [] if said is None else [said.headline, *warnings]
    return View(html, "\n".join([*before, *map(wrapped, words)]), {VERDICT_MIME: beside})


def overview(frame: pd.DataFrame) -> View:
    """Device maps down, quantizations across, one table a machine: the status of every combination."""
    grids, texts = [], []
    for machine, rows in frame.groupby("hardware", sort=False):
        kinds, maps = (list(dict.fromkeys(map(str, rows[name]))) for name in ("quantization", "device_map"))
        cells = {(str(row["device_map"]), str(row["quantization"])): _grid_cell(row) for _, row in rows.iterrows()}
        lines = [(map_text(name), [cells.get((name, kind)) for kind in kinds]) for name in maps]
        caption = capital(machine_text(str(machine)))
        grids.append({"caption": caption, "kinds": kinds, "lines": lines})
        width = max(len(name) for name, _ in lines) + 2
        texts.append("\n".join([caption, " " * width + "".join(f"{map_text(kind, 16):<18}" for kind in kinds)]))
        for name, found in lines:
            words = ["" if cell is None else f"{cell[0].sign} {cell[0].text}" for cell in found]
            texts[-1] += f"\n{name:<{width}}" + "".join(f"{word:<18}" for word in words)
    return View(render("report/overview", grids=grids), "\n\n".join(texts) or "There is no combination to show.")


def answers(frame: pd.DataFrame, probe: str | None = None) -> View:
    """What the model said to the probe (None: the default prompt), and which combinations said so."""
    ran = frame[frame["answer"].astype("string").fillna("").str.strip() != ""]
    asked = (probe or DEFAULT_PROMPT).strip()
    lines, texts = [], []
    for text, rows in ran.groupby("answer", sort=False):
        said, by = str(text).strip(), _who(rows, ran)
        counts = [(int(count), status_word(name)) for name, count in rows["status"].value_counts().items()]
        lines.append({"said": said, "by": by, "counts": counts})
        rightness = ", ".join(f"{count} × {word.text}" for count, word in counts)
        texts.append(wrapped(f"{asked} “{said}” said {by}; {rightness}", indent=2))
    nothing = "No combination gave an answer in words."
    return View(render("report/answers", asked=asked, lines=lines, nothing=nothing), "\n".join(texts) or nothing)


def failures(frame: pd.DataFrame) -> View:
    """Every combination that did not work, with what happened and its cause; equal ones together."""
    lines, texts, pairs = [], [], []
    for rows in grouped(frame[frame["status"] != "ok"]):
        said = (cell_text(rows[0][name]) for name in ("status", "error_text"))
        pairs.append(((reason_text(rows[0]), *said), rows))
    for alike in together(pairs):
        rows = [row for shared in alike for row in shared]
        row, word, labels = rows[0], status_word(rows[0]["status"]), list(map(label, _by_kind(rows)))
        reason, cause, error = reason_text(row), cause_text(row), cell_text(row["error_text"]).strip()
        if error in reason:
            error = ""  # it is told already
        elif len(error) > 4000:
            error = f"{error[:2000]}\n…\n{error[-2000:]}"
        lines.append({"labels": labels, "status": word, "reason": reason, "error": error, "cause": cause})
        names, facts = "; ".join(map(str, labels)), " ".join(filter(None, (reason, cause)))
        texts.append(wrapped(f"{names}: {word.text}. {facts}", f"{word.sign} "))
    has_causes = any(line["cause"] for line in lines)  # the reason of a refusal is its rule
    html = render("report/failures", lines=lines, has_causes=has_causes)
    return View(html, "\n".join(texts) or "Every combination works.")


def details(frame: pd.DataFrame) -> View:
    """Every column of every row, folded, for those who want to look something up; scrolls inside its own box."""
    columns = list(frame.columns)
    lines = [[_drawn(name, row[name]) for name in columns] for _, row in frame.iterrows()]
    size = f"{count_text(len(frame), 'row')}, {count_text(len(columns), 'column')}"
    text = frame.to_string(index=False, max_colwidth=60)
    return View(render("report/details", columns=columns, lines=lines, size=size), text)


def reason_text(row: pd.Series) -> str:
    """The row's own reason without the cause in it, or else its error in one line."""
    reason = re.sub("  +", " ", _CAUSE.sub("", cell_text(row["reason"]))).strip()
    return reason or ": ".join(filter(None, (cell_text(row["error_type"]), first_line(cell_text(row["error_text"])))))


def cause_text(row: pd.Series) -> str:
    """The cause that the row names, or what the catalogue reads from its error; empty where nobody knows it."""
    named = _CAUSE.search(cell_text(row["reason"]))
    if named:
        return f"{named['title']} ({named['id']})"
    text = cell_text(row["error_text"]).strip()
    if not text or row["status"] == "unsupported":
        return ""
    found = diagnose(text=f"{cell_text(row['error_type'])}: {text}")
    return next((f"{finding.title} ({finding.cause})" for finding in found if not finding.is_unknown), "")


def _grid_cell(row: pd.Series) -> tuple[Word, str]:
    """A combination's status, and how many of its tensors are missing, offloaded or packed."""
    counted = [("n_missing", "missing"), ("n_offloaded", "offloaded")]
    facts = [f"{int(row[name])} {word}" for name, word in counted if not is_missing(row[name]) and row[name]]
    if str(row["quantization"]) != "none" and not is_missing(row["n_quantized"]):
        facts.append(f"{int(row['n_quantized'])} packed")
    if not facts and row["status"] == "ok":
        facts.append("all resident")
    return status_word(row["status"]), ", ".join(facts)


def _by_kind(rows: Iterable[pd.Series]) -> list[Group]:
    """The rows of each quantization and machine."""
    return together(((str(row["quantization"]), str(row["hardware"])), row) for row in rows)


def _names(frame: pd.DataFrame) -> str:
    return "; ".join(str(label(rows)) for rows in _by_kind(row for _, row in frame.iterrows()))


def _who(rows: pd.DataFrame, ran: pd.DataFrame) -> str:
    """All, or all of a quantization, or else by name."""
    if len(rows) == len(ran):
        return f"all {len(ran)} that ran" if len(ran) > 1 else _names(rows)
    whole, rest = [], []
    for kind, mine in rows.groupby("quantization", sort=False):
        if len(mine) == int(ran["quantization"].eq(kind).sum()) > 1:
            whole.append(f"all {len(mine)} with {kind}")
        else:
            rest.append(_names(mine))
    return "; ".join(whole + rest)


def _drawn(column: str, value: object) -> tuple[str, object]:
    """One value of the frame: the kind of cell that the template draws, and what stands in it."""
    if is_missing(value):
        return "text", ""
    if column == "status":
        return "status", status_word(value)
    if column == "hardware" and value != THIS_MACHINE:
        return "badge", simulated_text(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        if column.endswith("_bytes"):
            return "number", format_size(float(value))
        if column.endswith("seconds"):
            return "number", format_seconds(float(value))
        if isinstance(value, float):
            return "number", number_text(value)
    text = str(value)
    if len(text) <= 60:
        return "text", text
    return "long", text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]} …"
