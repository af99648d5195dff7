"""Which stored rows hold for the next night: a death that was chance, or a stranger on the GPU, must not."""

import json

import pytest

from diag.sweep.results.baseline import Baseline
from diag.sweep.results.finality import counted, is_final
from diag.sweep.results.gate import gate_of
from diag.sweep.results.rows import blank_row, frame_of
from diag.values.exits import Exit
from diag.values.spec import LoadSpec

GIB = 2**30


def row(status="ok", device_map="auto", placed=None, held=None, hardware=None, **values):
    spec = LoadSpec("tiny", device_map, hardware=hardware)
    held_by = None if held is None else json.dumps([{"device": "cuda:0", "program": "x", "pid": 7, **held}])
    facts = {"placed": placed or {"cuda:0": GIB}}
    return {**blank_row(spec, status, "It is so."), "facts": facts, "held_by": held_by, **values}


STRANGER = {"owner": "another user", "nbytes": 20 * GIB}
PUSHED = {"cuda:0": GIB // 2, "cpu": GIB // 2}


@pytest.mark.parametrize(
    "spoilt", [row("out_of_memory", held=STRANGER), row(placed=PUSHED, held=STRANGER)], ids=["memory", "placement"]
)
def test_what_a_stranger_on_the_gpu_spoilt_is_done_again_the_next_night(spoilt):
    frame = frame_of([spoilt])
    assert gate_of(frame, Baseline((row(),), {})).exit_code is Exit.NOT_JUDGED
    assert not is_final(spoilt, retry_failed=False)
    assert not is_final({**spoilt, "tries": 7}, retry_failed=False), "however often"


@pytest.mark.parametrize(
    "kept",
    [
        row(held=STRANGER),  # all on the accelerator all the same
        row(placed=PUSHED),  # nobody was there: the model is too large
        row(placed=PUSHED, held={"owner": "another user", "nbytes": GIB // 100}),  # a desktop
        row(placed=PUSHED, held={**STRANGER, "owner": "this run"}),
        row(device_map="offload", placed=PUSHED, held=STRANGER),  # asked for, whoever is there
        row("wrong_output"), row("load_error"), row("unsupported"),
        row("out_of_memory", hardware="1GiB+1GiB", error_type="OutOfMemoryError"),
    ],
)  # fmt: skip
def test_what_says_something_about_the_model_is_kept(kept):
    assert is_final(kept, retry_failed=False)


@pytest.mark.parametrize("status", ["killed", "timeout", "out_of_memory", "unchecked"])
def test_a_death_is_tried_in_the_next_run_and_stays_after_the_second(status):
    first = counted(row(status), 0)
    assert not is_final(first, retry_failed=False)
    second = counted(row(status), 1)
    assert is_final(second, retry_failed=False)
    assert is_final(second, retry_failed=True) == (status == "unchecked")
    assert ("--retry-failed" in second["reason"]) == (status != "unchecked")


def test_rows_of_an_older_file_have_had_one_try():
    assert not is_final(row("killed"), retry_failed=False)
