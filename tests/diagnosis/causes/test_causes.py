"""The catalogue: complete, and every real case has one primary cause."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from places import ROOT

from diag.diagnosis import causes
from diag.diagnosis.evidence import Evidence, ModelFacts
from diag.diagnosis.explain import explain_text
from diag.errors import DiagError

ENTRIES = [file.cause for file in causes.FILES]


def test_the_causes_stand_in_the_order_of_their_rank_and_the_unknown_one_is_last():
    assert causes.ids() == tuple(entry.id for entry in sorted(ENTRIES, key=lambda entry: (entry.rank, entry.id)))
    assert causes.ids()[-1] == "unknown"
    assert len(ENTRIES) >= 31


def test_every_real_case_has_exactly_one_primary_cause():
    numbers = [case.split()[0] for entry in ENTRIES for case in entry.cases]
    assert len(numbers) == len(set(numbers)) >= 72


@pytest.mark.parametrize("cause", causes.ids())
def test_every_entry_explains_proves_rules_out_and_says_what_to_do(cause):
    entry = causes.get(cause)
    assert len(entry.explanation) > 100
    assert entry.proves
    assert entry.rules_out
    assert entry.check.endswith("?") or cause == "unknown"
    assert entry.fix.endswith(".")
    assert entry.avoid


@pytest.mark.parametrize("cause", causes.ids())
def test_nothing_is_left_to_fill_in(cause):
    """`make new-cause` writes FILL IN wherever a person has to."""
    name = cause.replace("-", "_")
    record, test = f"src/diag/diagnosis/causes/{name}.py", f"tests/diagnosis/causes/test_{name}.py"
    files = (record, test, f"src/diag/reproduce/scenarios/{name}.py")
    left = [f"{file}:{number}" for file in files for number in _lines_to_fill_in(ROOT / file)]
    assert not left, f"to be filled in: {', '.join(left)}"


def _lines_to_fill_in(path):
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    return [number for number, line in enumerate(lines, start=1) if "FILL IN" in line]


def test_an_unknown_id_names_the_nearest_one():
    with pytest.raises(DiagError, match="did you mean 'hooks-removed'"):
        causes.get("hook-removed")


def test_links_are_public_threads():
    assert all(link.startswith("https://github.com/") for link in causes.get("hooks-removed").links)


def test_explaining_a_text_needs_neither_torch_nor_pandas():
    code = "import sys; from diag.diagnosis.explain import explain_text; explain_text('CUDA out of memory'); " \
           "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'numpy', 'transformers')))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_troubleshooting_page_is_the_catalogue():
    page = ROOT / "docs" / "troubleshooting.md"
    assert page.read_text(encoding="utf-8") == causes.as_markdown(), "`make docs-causes` writes it again"


@pytest.mark.parametrize("text", sorted({text for entry in ENTRIES for text in entry.seen_as}))
def test_a_symptom_on_the_page_is_read_as_one_of_its_causes(text):
    assert explain_text(text.replace("…", " cuda:0 "))[0].cause in (*causes.by_symptom()[text], "unknown")


@pytest.mark.parametrize("file", [one for one in causes.FILES if one.cause.looks_at], ids=lambda one: one.cause.id)
def test_a_state_rule_finds_nothing_without_what_it_looks_at(file):
    """So the engine may leave it out then; everything else is there."""
    names = [field.name for field in dataclasses.fields(ModelFacts) if field.type == tuple[str, ...]]
    facts = ModelFacts(**{name: ("model.norm.weight",) for name in names if name not in file.cause.looks_at})
    e = Evidence(rows=(), facts=facts, inputs_on_meta=("input_ids",), new_names=frozenset({"model.norm.weight"}))
    held = {"inputs_on_meta": (), "new_names": frozenset()}
    e = dataclasses.replace(e, **{name: held[name] for name in file.cause.looks_at if name in held})
    assert list(file.from_state(e)) == []
    known = {field.name for of in (Evidence, ModelFacts) for field in dataclasses.fields(of)}
    assert set(file.cause.looks_at) <= known
