"""The ends of the walkthrough's notebooks: a check that can fail, and what the kernel still holds."""

import gc

import pytest
import torch
from torch import nn

from diag.views.notebook.lessons import NotAsTaughtError, check, held


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(256, 256)


def test_what_was_learned_is_listed_when_it_holds():
    assert "✓ water is wet" in str(check({"water is wet": True}))
    assert "<b>" not in check({"<b>": True}).html


def test_what_does_not_hold_fails_and_is_named():
    with pytest.raises(NotAsTaughtError, match="1 of 2 statements did not hold: the sky is green") as caught:
        check({"water is wet": True, "the sky is green": False})
    assert isinstance(caught.value, AssertionError)


def test_a_model_of_an_earlier_cell_is_named_with_its_size_until_it_is_gone():
    model = Kept()
    assert "Kept, 257 KiB" in str(held())
    assert "Linear, 257 KiB" not in str(held()), "parts of a model are not models of their own"
    del model
    gc.collect()
    assert "Kept" not in str(held())


def test_a_model_without_data_holds_nothing():
    with torch.device("meta"):
        model = Kept()
    assert "Kept" not in str(held()) and model is not None
