"""How diag's values show themselves: short repr, text for a terminal, HTML with everything escaped."""

import pytest

import diag
from diag.values.finding import Finding, Findings, Fix
from diag.values.outcome import LoadOutcome, Proof
from diag.views import shown

EVIL = "<img src=x onerror=alert(1)>\x1b[31m\u202e"
SPEC = diag.LoadSpec("tiny", device_map={"": 0, "model.<b>": "cpu"}, hardware="2x300MiB-50MiB+8GiB")
FIX = Fix("edit", because=f"do {EVIL}", code=f"load({EVIL!r})", avoid=EVIL, nbytes=2**20)
FINDING = Finding(
    "hooks-removed", "shown", "error", f"Stranded {EVIL}", tensors=tuple(f"layer.{n}.{EVIL}" for n in range(9)),
    module=EVIL, because=(EVIL,), fixes=(FIX,), avoid=(EVIL,), sources=("https://github.com/a/b/issues/1", EVIL),
)  # fmt: skip
VALUES = {
    "spec": SPEC,
    "hardware": SPEC.hardware,
    "outcome": LoadOutcome(SPEC, error=diag.DiagError(EVIL, why=EVIL), notes=(EVIL,), peak_bytes={"cpu": 10}),
    "proof": Proof(False, f"differs {EVIL}", probes=(EVIL,), max_abs_diff=0.5, answer=EVIL, repeatable=True),
    "fix": FIX,
    "finding": FINDING,
    "findings": Findings([FINDING, FINDING], looked_at=(EVIL,)),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_html_escapes_everything(value):
    html = value._repr_html_()
    assert "<img" not in html and "\x1b" not in html and "\u202e" not in html


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_repr_is_one_short_line(value):
    assert "\n" not in repr(value.subject if hasattr(value, "subject") else value) and len(repr(value)) < 400


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_terminal_gets_text_without_control_characters(value):
    from IPython.core.formatters import PlainTextFormatter

    text = PlainTextFormatter()(value)
    assert text.strip() and "\x1b" not in text and "<div" not in text


def test_a_findings_card_says_cause_place_reason_fix_and_what_to_avoid():
    html = VALUES["findings"]._repr_html_()
    for words in ("hooks-removed", "Stranded", "shown by the state", "<b>Fix: </b>", "avoid", "and 3 more"):
        assert words in html
    assert 'href="https://github.com/a/b/issues/1"' in html


def test_no_finding_is_shown_as_healthy():
    assert "Healthy" in Findings([], looked_at=("hooks",))._repr_html_()
    assert "Looked at: hooks." in str(shown.findings_view(Findings([], looked_at=("hooks",))))


def test_a_proof_says_which_of_three_it_is():
    for proved, words in {True: "✓ proved", False: "✗ not proved", None: "? could not be judged"}.items():
        assert words in Proof(proved, "because")._repr_html_()


def test_a_simulated_load_says_so():
    assert "simulated" in LoadOutcome(SPEC, model=object())._repr_html_()
    assert "simulated" in repr(LoadOutcome(SPEC, model=object()))
    assert "simulated" not in LoadOutcome(diag.LoadSpec("tiny"), model=object())._repr_html_().split("</style>")[1]


def test_a_token_in_an_error_does_not_reach_the_view():
    error = RuntimeError("401 for https://user:hunter2secret@host/x with hf_abcdefghijklmnopqrstuvwxyz012345")
    html = LoadOutcome(diag.LoadSpec("tiny"), error=error)._repr_html_()
    assert "hunter2secret" not in html and "hf_abcdefghij" not in html


def test_text_for_a_terminal_has_no_line_over_100_columns_and_code_has_lines_of_its_own():
    code = f"model = load({'x' * 120!r})\nmodel.eval()"
    fix = Fix("edit", because="Load it again. " * 12, code=code, avoid="to_empty(): nonsense. " * 9)
    finding = Finding("c", "shown", "error", "t", because=("It is so. " * 30,), fixes=(fix,))
    found = Findings([finding], looked_at=("a table " * 40,))
    for value in (str(found), shown.findings_view(found).text, shown.fix_view(fix).text):
        lines = value.splitlines()
        assert [line.strip() for line in lines if len(line) > 100] == [code.splitlines()[0]]
        assert "model.eval()" in [line.strip() for line in lines]
