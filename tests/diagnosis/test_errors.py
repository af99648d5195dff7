"""A caught exception beside the model it came from: its frames tell what the failing line read, and of what."""

from __future__ import annotations

import broken_models
import pytest
import torch

import diag
from diag.diagnosis.engine import diagnose

WEIGHT = "model.layers.4.mlp.up_proj.weight"


@pytest.fixture(scope="module", name="offloaded")
def offloaded_model():
    return broken_models.offloaded()


def _first(found) -> tuple:
    return found[0].cause, found[0].certainty, found[0].tensors


def test_the_failing_line_is_read_where_it_was_caught_in_the_same_function(offloaded):
    try:
        offloaded.model.layers[4].mlp.up_proj.weight.norm().item()
    except Exception as error:
        found = diagnose(offloaded, error=error)
    assert _first(found) == ("weight-used-outside-hook", "shown", (WEIGHT,))


def test_a_statement_over_several_lines_is_read_as_a_whole(offloaded):
    try:
        torch.ones(1).add(
            offloaded.model.layers[4].mlp.up_proj.weight,
        ).sum().item()
    except Exception as error:
        found = diagnose(offloaded, error=error)
    assert _first(found) == ("weight-used-outside-hook", "shown", (WEIGHT,))


def test_what_watch_stopped_is_explained_in_the_function_that_caught_it(offloaded):
    ones = torch.ones(1, offloaded.config.hidden_size)
    try:
        with torch.no_grad(), diag.watch(offloaded):
            torch.nn.functional.linear(ones, offloaded.model.layers[4].mlp.up_proj.weight)
    except diag.DiagError as error:
        found = diagnose(offloaded, error=error)
    assert _first(found) == ("weight-used-outside-hook", "shown", (WEIGHT,))


def _raised(action) -> Exception:
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


@pytest.mark.parametrize(
    "read",
    [
        lambda model: {k: v.numpy() for k, v in model.state_dict().items()},
        lambda model: [values.tolist() for values in model.state_dict().values()],
        lambda model: {k: v.cpu() for k, v in model.state_dict().items()},
    ],
)
def test_the_values_of_an_offloaded_models_state_dict_are_placeholders(offloaded, read):
    error = _raised(lambda: read(offloaded))
    assert diagnose(offloaded, error=error)[0].cause == "saving-offloaded-model"


def test_the_placeholder_at_hand_is_named(offloaded):
    found = diagnose(offloaded, error=_raised(lambda: {k: v.numpy() for k, v in offloaded.state_dict().items()}))
    assert _first(found)[1:] == ("shown", ("model.layers.4.self_attn.q_proj.weight",))


def test_placeholders_as_the_source_of_a_load_are_told_from_what_is_wrong_with_its_target(offloaded):
    healthy = broken_models.plain()
    error = _raised(lambda: healthy.load_state_dict(offloaded.state_dict()))
    cause, certainty, tensors = _first(diagnose(healthy, error=error))
    assert (cause, certainty) == ("saving-offloaded-model", "likely")
    assert WEIGHT in tensors
    assert [fix.action for fix in diagnose(healthy, error=error)[0].fixes] == ["by-hand"]


def test_a_state_dict_that_lies_around_is_not_taken_for_what_was_read(offloaded):
    kept = offloaded.state_dict()
    try:
        offloaded.model.layers[4].mlp.up_proj.weight.norm().item()
    except Exception as error:
        found = diagnose(offloaded, error=error)
    assert WEIGHT in kept
    assert _first(found) == ("weight-used-outside-hook", "shown", (WEIGHT,))


def test_a_weight_on_meta_right_after_its_hook_is_an_overlapping_call():
    """As a second thread leaves it: the hook has run, and somebody put the weight back on meta."""
    model = broken_models.offloaded()
    layer = model.model.layers[4].input_layernorm
    hook = layer._hf_hook
    hook.pre_forward = lambda module, *args, **kwargs: (args, kwargs)
    error = _raised(lambda: model(torch.tensor([[1, 2, 3]])))
    del hook.pre_forward
    assert _first(diagnose(model, error=error))[:2] == ("concurrent-calls", "likely")


def test_an_error_of_something_else_is_not_explained_by_what_the_model_shows_beside_it():
    model = broken_models.plain("tiny-gpt2")
    model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight.detach() * 3)
    found = diagnose(model, error=ValueError("Invalid API key"))
    assert [one.cause for one in found] == ["unknown", "tied-weights-split"]
    assert "not its cause" in str(found[0])


def test_a_word_that_begins_with_meta_is_not_about_meta(offloaded):
    from diag.diagnosis.evidence.frames import report_of
    from diag.diagnosis.evidence.trace import Trace

    assert not Trace(report_of(ValueError("bad metadata in meta-llama/Llama-2-7b"))).is_about_meta
    assert Trace(report_of(ValueError("weight is on the meta device"))).is_about_meta


def test_a_tied_state_dict_that_safetensors_refuses_is_not_a_fault_of_offloading(offloaded):
    from safetensors.torch import save_file

    values = torch.ones(2)
    error = _raised(lambda: save_file({"a.weight": values, "b.weight": values}, "never-written"))
    assert "share memory" in str(error)
    assert diagnose(offloaded, error=error)[0].cause == "unknown"


def test_a_tied_and_offloaded_state_dict_that_safetensors_refuses_is_told_for_both(tmp_path):
    from safetensors.torch import save_file

    model = broken_models.offloaded("tiny-gpt2")
    one = diagnose(model, error=_raised(lambda: save_file(model.state_dict(), tmp_path / "out")))[0]
    assert (one.cause, one.certainty) == ("saving-offloaded-model", "likely")
    assert "share memory" in str(one)


def test_a_dispatched_model_that_cannot_be_pickled_is_told_from_its_hooks(offloaded):
    import pickle

    found = diagnose(offloaded, error=_raised(lambda: pickle.dumps(offloaded)))
    assert _first(found)[:2] == ("saving-offloaded-model", "likely")
    assert found[0].fixes[0].action == "materialise"


def test_what_only_a_message_says_is_likely_and_never_shown_by_the_state():
    found = diagnose(error=RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert _first(found)[:2] == ("out-of-memory", "likely")


def test_one_tensor_is_spoken_of_in_the_singular_and_code_keeps_its_name():
    from diag.diagnosis.causes.uninitialised_values import _counted
    from diag.values.text import sentence

    assert _counted(1, "have nothing to do with the files") == "1 tensor has nothing to do with the files"
    assert _counted(2, "are not saved, and differ") == "2 tensors are not saved, and differ"
    assert sentence("load_state_dict was given placeholders") == "load_state_dict was given placeholders."
