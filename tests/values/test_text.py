"""Prose breaks between words, and nothing that a person copies is broken."""

import pytest

import diag
from diag.values.text import WIDTH, with_code, wrapped


def test_further_lines_stand_below_the_text():
    lines = wrapped("word " * 40, "  Why:    ").splitlines()
    assert lines[0].startswith("  Why:    word") and lines[1].startswith(" " * 10 + "word")
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("whole", [
    "https://github.com/huggingface/accelerate/issues/3866/" + "x" * 100, "model.layers.0.self-attention.weight",
    "diag.materialise(model, device='cuda:0', dtype=None)", "`pip install --upgrade bitsandbytes`", "23.5 GiB",
    "max_memory='0: 20 GiB'",
])  # fmt: skip
def test_names_calls_commands_and_sizes_are_not_broken(whole):
    for before in range(60, 100):
        assert whole in wrapped(f"{'x' * before} {whole} and more of it")


def test_line_breaks_of_the_text_stay():
    assert wrapped("one\n\ntwo", "- ") == "- one\n  \n  two"


def test_code_keeps_its_lines():
    code = "model = AutoModelForCausalLM.from_pretrained(" + "x" * 100 + ")\nmodel.eval()"
    assert with_code("Load again:", code, "Fix: ") == "\n".join(
        ["Fix: Load again:", *(f"     {line}" for line in code.splitlines())]
    )


def test_every_cause_fits_a_terminal():
    long = [line for cause in diag.causes.describe().cause for line in str(diag.causes.get(cause)).splitlines()]
    assert [line for line in long if len(line) > WIDTH] == []
