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
