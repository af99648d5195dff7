"""A caught exception beside the model it came from: its frames tell what the failing line read, and of what."""

from __future__ import annotations

import pytest
import torch

import diag
from diag import LoadSpec, load
from diag.diagnosis.engine import diagnose

WEIGHT = "model.layers.4.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def offloaded():
    return load(LoadSpec("tiny", device_map="offload")).model


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
    healthy = load(LoadSpec("tiny", device_map="none")).model
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
    model = load(LoadSpec("tiny", device_map="offload")).model
    layer = model.model.layers[4].input_layernorm
    hook = layer._hf_hook
    hook.pre_forward = lambda module, *args, **kwargs: (args, kwargs)
    error = _raised(lambda: model(torch.tensor([[1, 2, 3]])))
    del hook.pre_forward
    assert _first(diagnose(model, error=error))[:2] == ("concurrent-calls", "likely")
