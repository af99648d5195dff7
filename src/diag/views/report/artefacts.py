"""What a gated run leaves for other programs: JSON with every row, a Markdown summary, and JUnit. All redacted."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from diag.sweep.results.gate import Gate, JudgedRow
from diag.values.exits import Exit
from diag.values.redact import redact
from diag.values.text import visible
from diag.views.files import redacted, write_text

Row = Mapping[str, object]  # one row of the frame, as JSON
_MEANING = ("as expected", "worse than the baseline", "wrong usage", "could not judge", "the run died")  # by exit code
_SIGNS = {"worse": "✗ worse", "unjudged": "? not judged", "new": "+ new", "changed": "~ changed", "same": ""}
_CELL = 200  # characters of a name in a table


def write_summaries(stem: Path, gate: Gate, frame: pd.DataFrame | None = None) -> tuple[Path, ...]:
    """Writes `<stem>.json`, `<stem>.md` and `<stem>.junit.xml`, each in one step. Raises OSError where it can't."""
    rows = [] if frame is None else json.loads(frame.to_json(orient="records"))
    texts = {".json": as_json(gate, rows), ".md": as_markdown(gate), ".junit.xml": as_junit(gate, rows)}
    paths = tuple(stem.with_name(stem.name + suffix) for suffix in texts)
    for path, text in zip(paths, texts.values()):
        write_text(path, text)
    return paths


def as_json(gate: Gate, rows: Sequence[Row]) -> str:
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
            lines += ["", f"### {title}", ""]
            lines += [f"- **{_inline(row.name)}**: {_inline(row.why or row.reason)}" for row in rows]
    lines += ["", "| combination | status | against the baseline |", "|---|---|---|"]
    for row in gate.rows:
        name = row.name if len(row.name) <= _CELL else f"{row.name[:_CELL]} …"
        lines.append(f"| {_inline(name)} | {row.status} | {_SIGNS.get(row.standing, row.standing)} |")
    return "\n".join(lines) + "\n"


def as_junit(gate: Gate, rows: Sequence[Row]) -> str:
    """One test case a row: a failure where it got worse, an error where it could not be judged, else passed or skipped.

    A run that failed as a whole (wrong usage, died, nothing judged) has a test case `run` with that as its error.
    """
    suite = ElementTree.Element("testsuite", name="diag")
    is_told = gate.exit_code is Exit.NOT_JUDGED and gate.standing("unjudged")  # a row's own test case says it
    if gate.exit_code in (Exit.WRONG_USAGE, Exit.NOT_JUDGED, Exit.DIED) and not is_told:
        case = ElementTree.SubElement(suite, "testcase", classname="diag", name="run")
        _add(case, "error", gate.headline, gate.headline)
    figures = rows if len(rows) == len(gate.rows) else [{}] * len(gate.rows)
    for row, known in zip(gate.rows, figures):
        _add_case(suite, row, gate, known)
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True).decode() + "\n"


def _add_case(suite: ElementTree.Element, row: JudgedRow, gate: Gate, figures: Row) -> None:
    time = figures.get("load_seconds")
    seconds = f"{time:.3f}" if isinstance(time, (int, float)) and math.isfinite(time) else "0"
    named = {"classname": f"diag.{_xml(figures.get('model') or 'model')}", "name": _xml(row.name), "time": seconds}
    case = ElementTree.SubElement(suite, "testcase", named)
    said = f"{row.status}: {row.reason}"
    if row.standing == "worse":
        _add(case, "failure", row.why, row.reason)
    elif row.standing == "unjudged" and gate.exit_code is not Exit.AS_EXPECTED:
        _add(case, "error", said, row.reason)
    elif row.status in ("unsupported", "not_run", "unchecked"):
        _add(case, "skipped", said)
    else:
        _add(case, "system-out", text=said)


def _add(case: ElementTree.Element, tag: str, message: str | None = None, text: str | None = None) -> None:
    element = ElementTree.SubElement(case, tag, {} if message is None else {"message": _xml(message)})
    element.text = None if text is None else _xml(text)


def _xml(text: object) -> str:
    """Redacted, and without the two characters that `visible` leaves and XML can't hold."""
    return visible(redact(str(text))).translate({0xFFFE: None, 0xFFFF: None})


def _inline(text: str) -> str:
    """One line that Markdown shows as it is."""
    flat = " ".join(visible(redact(text)).split())
    for sign in "\\`*_[]<>|#":
        flat = flat.replace(sign, f"\\{sign}")
    return flat
