"""A matrix frame in words and tables: headline, overview, answers, failures with their cause, every figure."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

import diag
from diag.sweep.results.gate import Gate
from diag.values.text import capital, count_text, wrapped
from diag.values.units import format_seconds, format_size, is_missing
from diag.views.markup import View, breakable, escape, notice, table, tag
from diag.views.plots import status
from diag.views.report.verdict import VERDICT_MIME, Advice, Verdict, judge, machine_text, status_counts_text
from diag.views.rows import Group, badge, grouped, label, plain_label
from diag.views.wording import THIS_MACHINE, cell_text, map_text, number_text, status_word

_FINE = ("ok",)
_TEXT_LIMIT = 400
_CAUSE = re.compile(r"Cause: (?P<id>[a-z0-9-]+) \((?P<title>.*?)\)\.?(?=\s|$)")  # as a row's reason names it


def headline(frame: pd.DataFrame, gate: Gate | None = None) -> View:
    """The verdict first: how many combinations work, which one to use here, and why.

    A gate that has something to say (a baseline was given, or the run is not as expected) says it before all that.
    """
    verdict = judge(frame)
    if gate is not None and (gate.exit_code or gate.baseline):
        return _gated(gate, _with_advice(frame, verdict, said=gate.headline), verdict)
    view = _with_advice(frame, verdict)
    beside = verdict.to_json() if gate is None else {**verdict.to_json(), "gate": gate.to_json()}
    return View(tag("h1", escape(verdict.headline)) + view.html, view.text, {VERDICT_MIME: beside})


def _gated(gate: Gate, view: View, verdict: Verdict) -> View:
    html = tag("h1", escape(gate.headline)) + tag("p", escape(f"{verdict.headline}."), class_="lead")
    html += "".join(tag("p", escape(text), class_="soft") for text in gate.warnings)
    beside = {**verdict.to_json(), "headline": gate.headline, "exit_code": int(gate.exit_code), "gate": gate.to_json()}
    return View(html + view.html, "\n".join([gate.headline, *gate.warnings, view.text]), {VERDICT_MIME: beside})


def _with_advice(frame: pd.DataFrame, verdict: Verdict, said: str = "") -> View:
    """How many of each status, and what to use; why it could not be judged, unless the headline has `said` so."""
    tally = "".join(
        tag("li", f"{tag('b', str(count))}{status(name)}", title=status_word(name).meaning)
        for name, count in verdict.counts
    )
    counts = "" if verdict.unjudged else f" ({status_counts_text(verdict)})"  # what was not judged did not fail
    advice, words = _advice(verdict.best, verdict.smallest)
    if verdict.unjudged and verdict.unjudged != said:
        advice = notice("warn", f"{verdict.unjudged}.", []) + advice
        words = [f"{verdict.unjudged}.", *words]
    return View(
        tag("ul", tally, class_="tally", aria_label="How many of each") + advice,
        "\n".join(map(wrapped, [f"{verdict.headline}{counts}.", *words])),
    )


def overview(frame: pd.DataFrame) -> View:
    """Device maps down, quantizations across, one table a machine: the status of every combination."""
    views = [_grid(str(machine), rows) for machine, rows in frame.groupby("hardware", sort=False)]
    if not views:
        return View(tag("p", "There is no combination to show."), "There is no combination to show.")
    side_by_side = tag("div", "".join(view.html for view in views), class_="grids")
    return View(side_by_side, "\n\n".join(view.text for view in views))


def answers(frame: pd.DataFrame, probe: str | None = None) -> View:
    """What the model said to the probe (None: the default prompt), and which combinations said so."""
    ran = frame[[bool(cell_text(text).strip()) for text in frame["answer"]]]
    if not len(ran):
        return View(tag("p", "No combination gave an answer in words."), "No combination gave an answer in words.")
    said = [(_asked(probe), str(text).strip(), rows) for text, rows in ran.groupby("answer", sort=False)]
    lines = [
        (f"{escape(asked)} {tag('q', escape(text))}", escape(_who(rows, ran)), _rightness(rows))
        for asked, text, rows in said
    ]
    texts = [
        wrapped(f"{asked} “{text}” said {_who(rows, ran)}; {_rightness_text(rows)}", indent=2)
        for asked, text, rows in said
    ]
    caption = "The same words are not yet the same answer: the logits decide, and they are compared below."
    return View(table(("the prompt and what was said", "by", "and that was"), lines, caption), "\n".join(texts))


def failures(frame: pd.DataFrame) -> View:
    """Every combination that did not work, with what happened and its cause; equal ones together."""
    groups = _by_reason(frame[~frame["status"].isin(_FINE)])
    if not groups:
        return View(tag("p", "Every combination works."), "Every combination works.")
    lines = [(label_of(rows), status(row["status"]), _because(row), _cause_html(row)) for rows, row in groups]
    columns = ("combinations", "what", "why", "cause")
    shown = len(columns) if any(line[-1] for line in lines) else -1  # of refusals the rule is the reason
    texts = [
        wrapped(
            f"{_plain_names(rows)}: {status_word(row['status']).text}. "
            + " ".join(filter(None, (reason_text(row), cause_text(row)))),
            f"{status_word(row['status']).sign} ",
        )
        for rows, row in groups
    ]
    grid = table(columns[:shown], [line[:shown] for line in lines], "Combinations with the same reason share a line.")
    return View(grid, "\n".join(texts))


def details(frame: pd.DataFrame) -> View:
    """Every column of every row, folded, for those who want to look something up; scrolls inside its own box."""
    columns = list(frame.columns)
    lines = [tuple(_value(name, row[name]) for name in columns) for _, row in frame.iterrows()]
    size = f"{count_text(len(frame), 'row')}, {count_text(len(columns), 'column')}"
    grid = table(columns, lines, f"{size}: the frame that diag.matrix returned", cards=False)
    return View(tag("details", tag("summary", f"Show {size}") + grid, class_="figures"), visible_frame(frame))


def visible_frame(frame: pd.DataFrame) -> str:
    """The frame as plain text with every column."""
    return frame.to_string(index=False, max_colwidth=60)


def reason_text(row: pd.Series) -> str:
    """The row's own reason without the cause in it, or else its error in one line."""
    reason = re.sub("  +", " ", _CAUSE.sub("", cell_text(row["reason"]))).strip()
    if reason:
        return reason
    error, text = cell_text(row["error_type"]), cell_text(row["error_text"]).strip()
    first = text.splitlines()[0] if text else ""
    return f"{error}: {first}" if error and first else error or first


def cause_text(row: pd.Series) -> str:
    """The cause that the row names, or what the catalogue reads from its error; empty where nobody knows it."""
    named = _CAUSE.search(cell_text(row["reason"]))
    if named:
        return f"{named['title']} ({named['id']})"
    text = cell_text(row["error_text"]).strip()
    if not text or row["status"] == "unsupported":
        return ""
    found = diag.diagnose(text=f"{cell_text(row['error_type'])}: {text}")
    return next((f"{finding.title} ({finding.cause})" for finding in found if finding.cause != "unknown"), "")


def label_of(rows: list[pd.Series]) -> str:
    """Several rows named together: per quantization and machine, its maps."""
    return "<br>".join(label(group) for group in _by_kind(rows))


def _advice(best: Advice | None, smallest: Advice | None) -> tuple[str, list[str]]:
    if best is None:
        return tag("p", "None of them can be used as it is; the reasons are below.", class_="lead"), ["None works."]
    where = "here" if best.hardware == THIS_MACHINE else f"on {machine_text(best.hardware)}"
    html = tag("p", f"Use {tag('code', breakable(best.code))} {escape(where)}.", class_="lead")
    html += tag("p", escape(capital(best.because) + "."))
    words = [f"Use {best.code} {where}: {best.because}."]
    if smallest is not None:
        html += tag("p", f"Short of memory? {tag('code', breakable(smallest.code))} {escape(smallest.because)}.")
        words.append(f"Short of memory? {smallest.code} {smallest.because}.")
    return html, words


def _grid(machine: str, rows: pd.DataFrame) -> View:
    kinds = list(dict.fromkeys(map(str, rows["quantization"])))
    maps = list(dict.fromkeys(map(str, rows["device_map"])))
    cells = {(str(row["device_map"]), str(row["quantization"])): row for _, row in rows.iterrows()}
    lines = [(breakable(map_text(name)), *(_grid_cell(cells.get((name, kind))) for kind in kinds)) for name in maps]
    caption = capital(machine_text(machine))
    html = table(("device map", *kinds), lines, caption, cards=False)
    width = max(map(len, map(map_text, maps)), default=0) + 2
    texts = [" " * width + "".join(f"{map_text(kind, 16):<18}" for kind in kinds)]
    for name in maps:
        words = [_word(cells.get((name, kind))) for kind in kinds]
        texts.append(f"{map_text(name):<{width}}" + "".join(f"{word:<18}" for word in words))
    return View(html.replace("<table>", '<table class="picture">'), "\n".join([caption, *texts]))


def _grid_cell(row: pd.Series | None) -> str:
    if row is None:
        return ""
    facts = []
    if not is_missing(row["n_missing"]) and row["n_missing"]:
        facts.append(f"{int(row['n_missing'])} missing")
    if not is_missing(row["n_offloaded"]) and row["n_offloaded"]:
        facts.append(f"{int(row['n_offloaded'])} offloaded")
    if str(row["quantization"]) != "none" and not is_missing(row["n_quantized"]):
        facts.append(f"{int(row['n_quantized'])} packed")
    if not facts and row["status"] == "ok":
        facts.append("all resident")
    return status(row["status"]) + (tag("small", escape(", ".join(facts))) if facts else "")


def _word(row: pd.Series | None) -> str:
    return "" if row is None else f"{status_word(row['status']).sign} {status_word(row['status']).text}"


def _by_reason(frame: pd.DataFrame) -> list[Group]:
    """Groups of shared loads whose first rows failed alike, joined."""
    together: dict[tuple[str, str, str], list[pd.Series]] = {}
    for rows, row in grouped(frame):
        key = (str(row["status"]), reason_text(row), cell_text(row["error_text"]))
        together.setdefault(key, []).extend(rows)
    return [(rows, rows[0]) for rows in together.values()]


def _by_kind(rows: list[pd.Series]) -> list[list[pd.Series]]:
    together: dict[tuple[str, str], list[pd.Series]] = {}
    for row in rows:
        together.setdefault((str(row["quantization"]), str(row["hardware"])), []).append(row)
    return list(together.values())


def _plain_names(rows: list[pd.Series]) -> str:
    return "; ".join(plain_label(group) for group in _by_kind(rows))


def _names(frame: pd.DataFrame) -> str:
    return _plain_names([row for _, row in frame.iterrows()])


def _asked(probe: str | None) -> str:
    from diag.proving.probing import DEFAULT_PROMPT

    return (probe or DEFAULT_PROMPT).strip()


def _who(rows: pd.DataFrame, ran: pd.DataFrame) -> str:
    """All, or all of a quantization, or else by name."""
    if len(rows) == len(ran):
        return f"all {len(ran)} that ran" if len(ran) > 1 else _names(rows)
    whole, rest = [], []
    for kind, mine in rows.groupby("quantization", sort=False):
        everyone = int(ran["quantization"].eq(kind).sum())
        whole += [f"all {everyone} with {kind}"] if len(mine) == everyone > 1 else []
        rest += [] if len(mine) == everyone > 1 else [_names(mine)]
    return "; ".join(whole + rest)


def _rightness(rows: pd.DataFrame) -> str:
    return "<br>".join(f"{count} × {status(name)}" for name, count in rows["status"].value_counts().items())


def _rightness_text(rows: pd.DataFrame) -> str:
    return ", ".join(f"{count} × {status_word(name).text}" for name, count in rows["status"].value_counts().items())


def _because(row: pd.Series) -> str:
    text = cell_text(row["error_text"]).strip()
    shown = breakable(reason_text(row)) or "no reason was recorded"
    if not text or text in reason_text(row):
        return shown
    whole = text if len(text) <= 4000 else f"{text[:2000]}\n…\n{text[-2000:]}"
    return shown + tag("details", tag("summary", "the error's text") + tag("pre", escape(whole)))


def _cause_html(row: pd.Series) -> str:
    return breakable(cause_text(row))


def _value(name: str, value: Any) -> str:
    if is_missing(value):
        return ""
    if name.endswith("_bytes") and isinstance(value, (int, float)):
        return tag("span", escape(format_size(value)), class_="number")
    if name.endswith("seconds"):
        return tag("span", escape(format_seconds(value)), class_="number")
    if name == "status":
        return status(value)
    if name == "hardware":
        return escape(value) if value == THIS_MACHINE else badge(value)
    if isinstance(value, float):
        return tag("span", escape(number_text(value)), class_="number")
    text = str(value)
    if len(text) > 60:
        return tag("span", breakable(text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]} …"), class_="long")
    return breakable(text)
