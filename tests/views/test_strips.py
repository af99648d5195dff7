"""A placement table read as a strip: layers in order, each where its weights are, told apart without colour."""

from __future__ import annotations

import pandas as pd
from typed_frames import table

from diag.views import strips


def test_the_strip_has_one_sign_for_each_layer_in_order():
    assert "".join(unit.place.letter for unit in strips.units(table("0011ccddC"))) == "0011ccddC"


def test_offloaded_and_missing_differ_in_letter_and_in_pattern_although_both_are_meta():
    stored = table("0cdxC")
    assert set(stored.device[1:4]) == {"meta"}
    places = [unit.place for unit in strips.units(stored)][1:4]
    assert [place.letter for place in places] == ["c", "d", "×"]
    assert len({place.style for place in places}) == 3


def test_missing_data_is_shown_even_where_most_of_a_layer_is_there():
    stored = table("000")
    names = {"name": "model.layers.0.norm.weight", "module": "model.layers.0.norm"}
    small = stored.iloc[[1]].assign(**names, nbytes=4, device="meta", backing="none", tied_group=9)
    unit = strips.units(pd.concat([stored, small], ignore_index=True))[1]
    assert unit.place.is_missing
    assert [place.device for place in unit.others] == ["simgpu:0"]


def test_words_name_every_place_and_its_layers_as_ranges():
    assert strips.strip_in_words(strips.units(table("00011dC"))).split(" · ") == [
        "On simgpu:0: embed_tokens, layers 0–1",
        "On simgpu:1: layers 2–3",
        "Offloaded to disk: layer 4",
        "On cpu: lm_head",
    ]


def test_totals_count_tied_tensors_once_and_begin_with_what_is_missing():
    assert strips.totals(table("0000", tied_group=[1, 2, 3, 1])) == "simgpu:0 3 MiB"
    assert strips.totals(table("0xC")).startswith("missing 1 MiB · ")


def test_neighbours_in_the_same_place_are_one_stretch():
    found = strips.stretches(strips.units(table("0011dC")))
    assert [(one.letter, len(one.units)) for one in found] == [("0", 2), ("1", 2), ("d", 1), ("C", 1)]


def test_a_model_without_numbered_layers_has_a_strip_too():
    stored = table("00").assign(module=["encoder", "decoder"], name=["encoder.weight", "decoder.weight"])
    assert [unit.name for unit in strips.units(stored)] == ["encoder", "decoder"]


def test_quantization_state_and_buffers_do_not_become_units_of_their_own():
    buffer = table("000").iloc[[0]].assign(name="rotary.inv_freq", module="rotary", kind="non_persistent_buffer")
    assert "rotary" not in [unit.name for unit in strips.units(pd.concat([table("000"), buffer]))]


def test_an_empty_table_is_an_empty_strip():
    assert strips.units(table("00").iloc[:0]) == ()
