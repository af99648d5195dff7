"""Values as people read them."""

from __future__ import annotations

from diag.views import wording


def test_device_peaks_come_from_their_json_and_anything_else_is_empty():
    assert wording.device_bytes('{"cuda:0": 5}') == {"cuda:0": 5}
    assert wording.device_bytes("not json") == wording.device_bytes(None) == wording.device_bytes("[1]") == {}


def test_a_long_map_is_shortened_in_the_middle():
    text = wording.map_text('{"model.embed_tokens":0,"model.layers.0":0,"model.layers.1":0,"lm_head":"cpu"}')
    assert text.startswith('{"model.embed_tokens"') and text.endswith('"cpu"}') and len(text) < 60


def test_every_status_of_the_contract_has_a_word_and_one_from_a_newer_version_is_shown_as_it_is():
    statuses = "ok wrong_output unsupported load_error forward_error out_of_memory killed timeout unchecked not_run"
    assert set(statuses.split()) == set(wording.STATUSES)
    assert wording.status_word("melted").text == "melted"
