"""Starts a new cause: `make new-cause ID=my-cause`, or `python tools/new_cause.py my-cause`.

Writes three files: the cause, its test and its scenario. Their tests fail and name each line that says FILL IN, until
nothing is left to fill in. Nothing else has to be touched; `make docs-causes` writes docs/troubleshooting.md again.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_CAUSE = '''"""{id}: FILL IN what happened, in one sentence."""

from diag.diagnosis.cause import Cause, Fixes, Found, cases_of, texts_of
from diag.diagnosis.evidence import Evidence
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="{id}",
    rank=250,  # FILL IN where it stands: what the person did (from 10), the state it left (100), the symptom (250)
    shown_on="cpu",  # "simulated" where it needs GPUs; or FILL IN why it can't be shown, and delete its scenario
    title="FILL IN the fact, as a heading",
    explanation="FILL IN what happens and why, for somebody who meets it the first time: three or four sentences.",
    proves=("FILL IN what settles that it is this cause.",),
    rules_out=("FILL IN what settles that it is not.",),
    check="FILL IN the question whose answer decides where a text does not?",
    fix="FILL IN the safe way out.",
    avoid=("FILL IN common advice that harms: and why.",),
    seen_as=("FILL IN the error's text as the library words it, … for what differs",),  # or shows_as, without an error
    # A pattern is compared with the text in lower case without white space; `Text` in cause.py says what points mean.
    texts=texts_of(r"""
        FILL IN what the text says
            10: FILL IN a pattern that this text matches
    """),
    # Where an error has been raised, the state explains it only if it is about meta, mixes devices or names a tensor.
    looks_at=(),  # fields of Evidence and ModelFacts without which from_state need not be asked
    cases=cases_of("""
        FILL IN the next free number, what somebody reported: owner/repository#number owner/repository#number
    """),  # or none
)


def from_state(e: Evidence) -> Found:
    """FILL IN what the model shows at rest; delete this function where it shows nothing."""
    if names := tuple(row.name for row in e.rows if row.device == "FILL IN a condition on the rows"):
        yield CAUSE.finding("shown", names, because=("FILL IN how these tensors prove it.",))


def fixes(finding: Finding, situation: Situation) -> Fixes:
    """FILL IN the ways out that diag can take, safest first; CAUSE.fix is said in any case."""
    return situation.reload_alike()
'''

_TEST = '''"""{id}: the text is read as this cause, the broken model shows it, and a healthy one does not."""

from __future__ import annotations

import pytest

import diag
from diag import LoadSpec, load
from diag.diagnosis.explain import explain_text


def test_its_text_is_read_as_this_cause():
    text = "FILL IN the last lines of a real traceback: play the scenario once and copy what it raised"
    assert explain_text(text)[0].cause == "{id}"


def test_a_model_in_this_state_shows_it():
    model = load(LoadSpec("tiny", device_map="offload")).model
    pytest.fail("FILL IN what a person does to `model`, instead of this line")
    assert diag.diagnose(model)[0].cause == "{id}"


def test_a_healthy_model_does_not():
    model = load(LoadSpec("tiny", device_map="offload")).model
    assert "{id}" not in [found.cause for found in diag.diagnose(model)]
'''

_SCENARIO = '''"""{id}: FILL IN what the person does."""

from diag.errors import DiagError
from diag.reproduce.common import Scenario, Stage, load_with_disk, run, step


@step("break", "FILL IN what this step does.")
def break_it(stage: Stage) -> None:
    raise DiagError("FILL IN what a person does to stage.model, instead of this line")


TEACHES = "FILL IN what to look at, in one sentence."
SCENARIO = Scenario("{id}", TEACHES, (load_with_disk, break_it, run))
'''

_NEXT = """Three files were written. Each place to fill in says FILL IN:
{}
Read src/diag/diagnosis/evidence/__init__.py and a neighbour first; causes/hooks_removed.py is a good one. Then run:
  python -m pytest tests/diagnosis/causes tests/reproduce/test_scenarios.py -k "{names}"
  make docs-causes   # writes docs/troubleshooting.md again"""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the three files; 2 where the id can't be one or a file of it exists."""
    parser = argparse.ArgumentParser(prog="new_cause", description="Starts a new cause: its file, test and scenario.")
    parser.add_argument("id", help="words in lower case with hyphens: hooks-removed")
    cause = parser.parse_args(argv).id
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", cause):
        return _refuse(f"{cause!r} can't be a cause's id: use two or more words in lower case with hyphens.")
    texts = texts_of(cause)
    existing = [path for path in texts if (ROOT / path).exists()]
    if existing:
        return _refuse(f"{', '.join(map(str, existing))} exists already; nothing was written.")
    for path, text in texts.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
    print(
        _NEXT.format("\n".join(f"  {path.as_posix()}" for path in texts), names=f"{cause} or {cause.replace('-', '_')}")
    )
    return 0


def texts_of(cause: str) -> dict[Path, str]:
    """The three files of a new cause by their paths in the checkout: record, test, scenario."""
    name = cause.replace("-", "_")
    return {
        Path("src/diag/diagnosis/causes", f"{name}.py"): _CAUSE.format(id=cause),
        Path("tests/diagnosis/causes", f"test_{name}.py"): _TEST.format(id=cause),
        Path("src/diag/reproduce/scenarios", f"{name}.py"): _SCENARIO.format(id=cause),
    }


def _refuse(message: str) -> int:
    print(f"new-cause: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
