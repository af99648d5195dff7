"""The service over a real socket: the reported 500, what explains it, and the environment variable that fixes it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from diag.diagnosis.engine import diagnose
from diag.errors import SpecError
from diag.reproduce.service import Service, ask, serving

ALL_ON_DISK = json.dumps({"": "disk"})
GPU = {"hardware": "300MiB+8GiB"}


def test_hooks_that_were_lost_give_the_reported_text_and_diag_explains_it():
    service = Service("tiny", {"DEVICE_MAP": "disk"}, mistake="hooks-lost", **GPU)
    with serving(service) as url:
        answer = ask(url)
    assert answer.status == 500
    assert answer.text == '{"error": "Tensor on device simgpu:0 is not on the expected device meta!"}'
    from_body = diagnose(text=answer.text)
    assert from_body[0].certainty == "possible"
    assert "hooks-removed" in [found.cause for found in from_body]
    with_model = diagnose(service.model, text=answer.text)
    assert (with_model[0].cause, with_model[0].certainty) == ("hooks-removed", "shown")


def test_the_cause_named_first_gives_another_text():
    service = Service("tiny", {"DEVICE_MAP": ALL_ON_DISK}, mistake="inputs-to-model-device")
    with serving(service) as url:
        answer = ask(url)
    assert answer.status == 500
    assert "is not on the expected device meta" not in answer.text
    assert answer.body["error"].startswith(("Cannot copy out of meta tensor", "Tensor.item() cannot be called"))


def test_overlapping_requests_on_an_offloaded_model_give_the_reported_text_too():
    with serving(Service("tiny", {"DEVICE_MAP": "disk"}, mistake="calls-at-once")) as url:
        ask(url)
        with ThreadPoolExecutor(8) as pool:
            answers = [answer for _ in range(6) for answer in pool.map(lambda _: ask(url), range(16))]
        alone = ask(url)
    assert any("is not on the expected device" in answer.text for answer in answers)
    assert alone.status == 200


def test_one_request_at_a_time_answers_all_of_them():
    with serving(Service("tiny", {"DEVICE_MAP": "disk"})) as url, ThreadPoolExecutor(8) as pool:
        assert len({answer.text for answer in pool.map(lambda _: ask(url), range(32))}) == 1


@pytest.fixture(scope="module")
def right_answer():
    with serving(Service("tiny", {"DEVICE_MAP": "none"})) as url:
        return ask(url)


@pytest.mark.parametrize(
    ("device_map", "mistake"),
    [("single", "hooks-lost"), ("single", "inputs-to-model-device"), ("offload", "none"), ("disk", "none")],
)
def test_one_environment_variable_gives_200_and_the_right_answer(device_map, mistake, right_answer):
    with serving(Service("tiny", {"DEVICE_MAP": device_map}, mistake=mistake)) as url:
        assert ask(url) == right_answer
    assert right_answer.status == 200 and len(right_answer.body["ids"]) == 4


def test_requests_during_start_up_get_503_and_never_a_half_loaded_model():
    service = Service("tiny", {"DEVICE_MAP": "offload"})
    go_on = threading.Event()
    load = service._load
    service._load = lambda: (go_on.wait(60), load())[1]
    with serving(service) as url, ThreadPoolExecutor(4) as pool:
        early = [answer.status for answer in pool.map(lambda _: ask(url, patience=0), range(8))]
        go_on.set()
        late = {answer.text for answer in pool.map(lambda _: ask(url), range(8))}
    assert early == [503] * 8
    assert len(late) == 1
    assert "ids" in late.pop()


def test_a_load_that_failed_says_why():
    with serving(Service("tiny", {"DEVICE_MAP": "offload", "QUANTIZE": "4bit"}, **GPU)) as url:
        answer = ask(url, patience=0.5)
        while "still loading" in answer.text:
            answer = ask(url, patience=0.5)
    assert answer.status == 503
    assert "could not be loaded" in answer.body["error"]


def test_what_is_not_a_list_of_ids_is_refused():
    from diag.reproduce.service import _post

    with serving(Service("tiny", {"DEVICE_MAP": "none"})) as url:
        ask(url)
        assert _post(f"{url}/generate", {"ids": "no"}).status == 422
        assert _post(f"{url}/elsewhere", {}).status == 404


def test_an_unknown_value_is_an_error_and_never_a_silent_default():
    with pytest.raises(SpecError, match="DEVICE_MAP"):
        Service("tiny", {"DEVICE_MAP": "fastest"})
    with pytest.raises(SpecError, match="mistake"):
        Service("tiny", {}, mistake="another")
