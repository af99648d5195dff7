"""Each scenario fails for real, and is diagnosed as itself; each fix is proved, or honestly not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diag import reproduce
from diag.diagnosis import causes
from diag.diagnosis.engine import diagnose
from diag.diagnosis.mending.fixes import fix
from diag.errors import DiagError

NOT_PROVABLE = {
    "missing-weight-data/files-gone": "the files are gone",
    "adapter-on-offloaded-base/files-rewritten": "the files themselves are other ones now",
    "uninitialised-values/buffer": "no input is known for that class",
}
BY_HAND = ("constructor-on-meta", "environment-mismatch", "offload-notice", "missing-weight-data")


@pytest.fixture(scope="module", params=reproduce.names())
def stage(request):
    with reproduce.get(request.param).run() as played:
        yield played


def test_the_failure_is_real(stage):
    is_silent = stage.scenario.silent or stage.scenario.cause == "offload-notice"
    assert (stage.error is None) == is_silent
    assert not isinstance(stage.error, DiagError)


def test_what_was_raised_is_among_the_symptoms_of_its_cause(stage):
    if stage.error is not None:
        raised = f"{type(stage.error).__name__}: {stage.error}".replace("\n", " ")
        patterns = [".*".join(map(re.escape, text.split("…"))) for text in causes.get(stage.scenario.cause).seen_as]
        assert any(re.search(pattern, raised) for pattern in patterns), raised


def test_it_is_diagnosed_as_itself(stage):
    assert stage.diagnose()[0].cause == stage.scenario.cause


def test_the_exception_alone_is_enough_where_there_is_one(stage):
    if stage.error is not None and stage.scenario.cause != "memory-already-taken":
        assert diagnose(error=stage.error)[0].cause == stage.scenario.cause


@pytest.mark.parametrize("name", reproduce.names())
def test_every_step_is_named_and_explained_and_a_load_shows_the_call_that_a_user_writes(name):
    calls = ("from_pretrained(", "from_config(", "load_state_dict(", "dispatch_model(", "cpu_offload(")
    for step in reproduce.get(name).steps:
        assert step.name in ("build", "load", "break", "run") and step.says.endswith(".") and step.code.strip()
        assert step.name != "load" or any(call in step.code for call in calls), step.code


@pytest.mark.slow
def test_the_first_fix_is_proved_or_honestly_not():
    for name in reproduce.names():
        with reproduce.get(name).run() as stage:
            found = stage.diagnose()
            if name in BY_HAND:
                with pytest.raises(DiagError):
                    fix(found)
                continue
            fixed = fix(found)
            proved = fixed.proof is not None and fixed.proof.proved is True
            assert proved is (name not in NOT_PROVABLE), f"{name}: {fixed.proof or fixed.error}"


def test_every_cause_is_shown_or_says_why_not():
    shown = {one.cause for one in reproduce.scenarios()}
    for cause in causes.ids():
        assert (causes.get(cause).shown_on in ("cpu", "simulated")) == (cause in shown), cause


def test_a_silent_scenario_gives_a_wrong_answer():
    for name in ("forward-bypasses-hook", "submodule-replaced", "uninitialised-values", "tied-weights-split/lost",
                 "adapter-on-offloaded-base/files-rewritten"):  # fmt: skip
        with reproduce.get(name).run() as stage:
            assert stage.is_wrong, name


def test_steps_can_be_played_one_at_a_time():
    with reproduce.get("hooks-removed").start() as stage:
        assert stage.play().step.name == "load"
        assert not stage.finished
        assert stage.play().step.name == "break"
        assert "is not on the expected device meta" in stage.play().error
        assert stage.finished
        with pytest.raises(DiagError, match="over"):
            stage.play()


def test_a_scenario_that_does_not_exist_names_the_nearest():
    with pytest.raises(DiagError, match="did you mean"):
        reproduce.get("hooks-remove")
    with pytest.raises(DiagError, match="can't be shown here"):
        reproduce.get("distributed-loader-conflict")


def test_the_folder_goes_with_the_stage():
    with reproduce.get("quantized-cast").start() as stage:
        folder = stage.folder
        assert folder.exists()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["adapter-on-offloaded-base", "adapter-on-offloaded-base/files-rewritten"])
def test_nothing_is_left_where_the_caller_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with reproduce.get(name).run() as stage:
        stage.diagnose()
        assert Path.cwd() == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_peft_writes_over_a_local_base_and_the_rewritten_tensors_are_named():
    with reproduce.get("adapter-on-offloaded-base/files-rewritten").run() as stage:
        found = stage.diagnose()
        assert "3 of 6 files" in stage.played[2].shows
        assert "model.layers.5.mlp.down_proj.weight" in found[0].tensors
        assert "model.layers.0.mlp.down_proj.weight" not in found[0].tensors
        assert "fetched again" in found[0].fixes[-1].because
