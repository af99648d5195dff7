"""%diag in a real IPython shell: explains the last exception, never breaks a notebook, keeps nothing alive."""

import gc
import sys
import weakref

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

BROKEN = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
_ = model[1].to_empty(device="meta")
"""
FAILS = "model(torch.ones(1, 4))"
SILENT = "broken = nn.Sequential(nn.Linear(4, 4, bias=False)).to_empty(device='meta')\nbroken(torch.ones(1, 4)).shape"


@pytest.fixture
def shell():
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()
    made.run_line_magic("load_ext", "diag")
    _forget_exception()
    yield made
    made.run_line_magic("unload_ext", "diag")
    InteractiveShell.clear_instance()


def run(shell, *cells: str) -> tuple[str, object]:
    """Runs cells; returns what they showed (tracebacks, texts, cards) and the last result."""
    with capture_output() as shown:
        for cell in cells:
            result = shell.run_cell(cell, store_history=True)
    cards = [output.data["text/plain"] for output in shown.outputs if "text/html" in output.data]
    return "\n".join([shown.stdout, *cards]), result


def _forget_exception() -> None:
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)


def test_the_last_exception_is_explained_without_arguments(shell):
    shown, result = run(shell, BROKEN, FAILS, "%diag")
    assert result.success and "never-materialised" in shown and "1.weight" in shown
    assert "import diag\nfixed = diag.fix(diag.diagnose(model))" in shown


def test_the_card_names_the_model_as_the_notebook_does(shell):
    run(shell, BROKEN, "class App: pass\napp = App()\napp.model = model", FAILS)
    assert "diag.diagnose(model)" in run(shell, "%diag")[0]
    run(shell, "del model", "app.model(torch.ones(1, 4))")
    assert "diag.diagnose(app.model)" in run(shell, "%diag")[0]


@pytest.mark.parametrize("near", ["", "near = torch.nn.Linear(2, 2)"])
def test_a_model_nearby_that_is_healthy_does_not_hide_what_the_text_says(shell, near):
    raising = "raise RuntimeError('Tensor on device cuda:0 is not on the expected device meta!')"
    run(shell, f"import torch\ndef ask():\n    {near or 'pass'}\n    {raising}", "ask()")
    shown, _ = run(shell, "%diag")
    assert "not about devices" not in shown and "weight-used-outside-hook (possible)" in shown


def test_a_watched_cell_that_awaits_says_what_to_do_instead(shell):
    _, result = run(shell, "%%diag\nimport asyncio\nawait asyncio.sleep(0)")
    assert not result.success and "with diag.watch(model):" in str(result.error_in_exec)


def test_nothing_is_run_again(shell):
    run(shell, BROKEN, "calls = []\nmodel[0].register_forward_hook(lambda *_: calls.append(1))", FAILS, "%diag")
    assert shell.user_ns["calls"] == [1]


def test_on_shows_the_card_under_the_traceback_and_off_ends_it(shell):
    shown, result = run(shell, BROKEN, "%diag on", FAILS)
    assert "never-materialised" in shown and isinstance(result.error_in_exec, Exception)
    assert "never-materialised" not in run(shell, "%diag off", FAILS)[0]


@pytest.mark.parametrize("cell", ["1/0", "{}['x']", "undefined_name", "open('/no/such/file')", "for"])
def test_errors_that_are_not_ours_pass_untouched(shell, cell):
    run(shell, "%diag on")
    with_diag, result = run(shell, cell)
    run(shell, "%unload_ext diag")
    without, expected = run(shell, cell)
    run(shell, "%load_ext diag")
    assert type(result.error_in_exec) is type(expected.error_in_exec)
    assert with_diag.count("\n") == without.count("\n") and "diag" not in with_diag


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (["1/0", "%diag"], "ZeroDivisionError is not about devices or placement"),
        (["%diag"], "No cell of this notebook has failed yet"),
        (["%diag onn"], "%diag on"),
    ],
)
def test_what_can_not_be_explained_gets_one_honest_sentence(shell, cells, sentence):
    assert sentence in run(shell, *cells)[0]


def test_a_watched_cell_stops_at_the_silent_mistake_and_explains_it(shell):
    assert run(shell, BROKEN, SILENT)[1].success, "without watch there is no error: that is the trap"
    shown, watched = run(shell, f"%%diag broken\n{SILENT.splitlines()[1]}")
    assert type(watched.error_in_exec).__name__ == "MetaUseError"
    assert "never-materialised" in shown


def test_a_watched_cell_that_is_fine_gives_its_value(shell):
    shown, result = run(shell, "import torch", "%%diag\nx = torch.ones(2)\nx.sum().item()")
    assert result.result == 2.0 and "no operation of this cell mixed" in shown
    assert shell.user_ns["x"].numel() == 2


def test_a_foreign_error_in_a_watched_cell_is_the_same_error(shell):
    shown, result = run(shell, "%%diag\n1/0")
    assert type(result.error_in_exec) is ZeroDivisionError and "is not about devices" not in shown
    assert "never-materialised" not in run(shell, BROKEN, FAILS)[0], "the card of a watched cell must not outlive it"


def test_an_error_inside_diag_is_a_sentence_and_not_a_second_traceback(shell, monkeypatch):
    from diag.diagnosis import engine

    monkeypatch.setattr(engine, "diagnose", lambda **_: 1 / 0)
    shown, failed = run(shell, BROKEN, "%diag on", FAILS)
    again, asked = run(shell, "%diag")
    assert isinstance(failed.error_in_exec, Exception) and asked.success
    assert "diag could not look at this" in shown and "diag could not look at this" in again


def test_no_tensor_stays_alive_through_diag(shell):
    run(shell, BROKEN, "%diag on", FAILS, "%diag")
    model = weakref.ref(shell.user_ns["model"])
    weight = weakref.ref(shell.user_ns["model"][0].weight)
    run(shell, "del model")
    gc.collect()
    assert weight() is not None, "IPython itself keeps the last exception: this check can fail"
    run(shell, "1/0", "pass")
    _forget_exception()
    gc.collect()
    assert model() is None and weight() is None


def test_loading_twice_registers_one_hook(shell):
    run(shell, "%load_ext diag", "%reload_ext diag", BROKEN, "%diag on")
    assert run(shell, FAILS)[0].count("The cause of") == 1


def test_an_exception_that_was_caught_is_explained_by_name(shell):
    run(shell, BROKEN, f"try:\n    {FAILS}\nexcept RuntimeError as error:\n    caught = error")
    assert "never-materialised" in run(shell, "%diag caught")[0]
