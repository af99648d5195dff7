"""What a gated run leaves for other programs: JSON with every row, a Markdown summary, and JUnit. All redacted."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from diag.sweep.results.gate import Gate, JudgedRow
from diag.values.exits import Exit
from diag.values.redact import redact
from diag.values.text import visible
from diag.views.files import redacted, write_text

SUFFIXES = (".json", ".md", ".junit.xml")
_SIGNS = {"worse": "✗ worse", "unjudged": "? not judged", "new": "+ new", "changed": "~ changed", "same": ""}
_CELL = 200  # characters of a reason in a table


def write_summaries(stem: Path, gate: Gate, frame: pd.DataFrame | None = None) -> tuple[Path, ...]:
    """Writes `<stem>.json`, `<stem>.md` and `<stem>.junit.xml`, each in one step. Raises OSError where it can't."""
    rows = [] if frame is None else json.loads(frame.to_json(orient="records"))
    texts = {".json": as_json(gate, rows), ".md": as_markdown(gate), ".junit.xml": as_junit(gate, rows)}
    paths = []
    for suffix, text in texts.items():
        path = stem.with_name(stem.name + suffix)
        write_text(path, text)
        paths.append(path)
    return tuple(paths)


def as_json(gate: Gate, rows: Sequence[Mapping[str, Any]]) -> str:
    """The outcome, each row's standing, and every figure of every row."""
    value = {**gate.to_json(), "figures": list(rows)}
    return json.dumps(redacted(value), indent=1, ensure_ascii=False) + "\n"


def as_markdown(gate: Gate) -> str:
    """For a pull request or a job's summary page: the outcome first, what got worse, then one line a row."""
    lines = [f"## {_inline(gate.headline)}", "", f"Exit code {int(gate.exit_code)} ({_MEANING[gate.exit_code]})."]
    lines += ["", *(f"- {_inline(text)}" for text in gate.warnings)] if gate.warnings else []
    for word, title in (("worse", "Got worse"), ("unjudged", "Could not be judged"), ("changed", "Changed")):
        rows = gate.standing(word)
        if rows:
            lines += ["", f"### {title}", "", *(f"- **{_inline(row.name)}**: {_inline(_why(row))}" for row in rows)]
    lines += ["", "| combination | status | against the baseline |", "|---|---|---|"]
    lines += [f"| {_cell(row.name)} | {row.status} | {_SIGNS.get(row.standing, row.standing)} |" for row in gate.rows]
    return "\n".join(lines) + "\n"


_MEANING = {
    Exit.AS_EXPECTED: "as expected", Exit.WORSE: "worse than the baseline", Exit.WRONG_USAGE: "wrong usage",
    Exit.NOT_JUDGED: "could not judge", Exit.DIED: "the run died",
}  # fmt: skip


def as_junit(gate: Gate, rows: Sequence[Mapping[str, Any]]) -> str:
    """One test case a row: a failure where it got worse, an error where it could not be judged, else passed or skipped.

    A run that failed as a whole (wrong usage, died, nothing judged) has a test case `run` with that as its error.
    """
    suite = ElementTree.Element("testsuite", name="diag")
    if gate.exit_code in (Exit.WRONG_USAGE, Exit.DIED) or (gate.exit_code is Exit.NOT_JUDGED and not _told(gate)):
        case = ElementTree.SubElement(suite, "testcase", classname="diag", name="run")
        _say(ElementTree.SubElement(case, "error", message=_xml(gate.headline)), gate.headline)
    for position, row in enumerate(gate.rows):
        figures = rows[position] if len(rows) == len(gate.rows) else {}
        _case(suite, row, gate, figures)
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _told(gate: Gate) -> bool:
    """Whether some row's own test case says already that the run could not be judged."""
    return bool(gate.standing("unjudged"))


def _case(suite: ElementTree.Element, row: JudgedRow, gate: Gate, figures: Mapping[str, Any]) -> None:
    time = figures.get("load_seconds")
    known = isinstance(time, (int, float)) and math.isfinite(time)
    model = _xml(str(figures.get("model") or "model"))
    case = ElementTree.SubElement(suite, "testcase", classname=f"diag.{model}", name=_xml(row.name),
                                  time=f"{time:.3f}" if known else "0")  # fmt: skip
    if row.standing == "worse":
        _say(ElementTree.SubElement(case, "failure", message=_xml(row.why)), row.reason)
    elif row.standing == "unjudged" and gate.exit_code is not Exit.AS_EXPECTED:
        _say(ElementTree.SubElement(case, "error", message=_xml(f"{row.status}: {row.reason}")), row.reason)
    elif row.status in ("unsupported", "not_run", "unchecked"):
        ElementTree.SubElement(case, "skipped", message=_xml(f"{row.status}: {row.reason}"))
    else:
        _say(ElementTree.SubElement(case, "system-out"), f"{row.status}: {row.reason}")


def _say(element: ElementTree.Element, text: str) -> None:
    element.text = _xml(text)


def _xml(text: str) -> str:
    """Without characters that XML can't hold, redacted."""
    return "".join(c for c in visible(redact(str(text))) if c in "\t\n\r" or (ord(c) >= 32 and ord(c) not in _NO_XML))


_NO_XML = frozenset((0xFFFE, 0xFFFF, *range(0xD800, 0xE000)))


def _why(row: JudgedRow) -> str:
    return row.why or row.reason


def _inline(text: str) -> str:
    """One line that Markdown shows as it is."""
    flat = " ".join(visible(redact(text)).split())
    for sign in "\\`*_[]<>|#":
        flat = flat.replace(sign, f"\\{sign}")
    return flat


def _cell(text: str) -> str:
    return _inline(text if len(text) <= _CELL else f"{text[:_CELL]} …")
