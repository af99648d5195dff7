"""The gate: worse than the baseline, not judged, or as expected. Rows are typed here; nothing is loaded."""

import json

import numpy as np
import pytest

from diag.errors import SpecError
from diag.sweep.results.baseline import Baseline, read_baseline, write_baseline
from diag.sweep.results.gate import Gate, GateFailed, gate_of
from diag.sweep.results.rows import blank_row, frame_of, rows_of
from diag.sweep.results.sketch import sketch
from diag.values.exits import Exit
from diag.values.spec import LoadSpec

ANSWER = np.linspace(-4, 4, 600, dtype=np.float32).reshape(6, 100)


def row(device_map="auto", status="ok", *, model="tiny", placed=None, outputs=ANSWER, answer="Paris", **values):
    made = blank_row(LoadSpec(model, device_map), status, values.pop("reason", f"It is {status}."))
    if status == "ok":
        made.update(n_missing=0, n_offloaded=0, n_quantized=0, answer=answer)
        made["facts"] = {
            "placed": placed or {"cuda:0": 1_000_000}, "sketch": sketch(outputs), "digest": str(outputs.sum()),
            "dtype": "float32", "probe": "a prompt", "checkpoint": "c", "map": None,
        }  # fmt: skip
    return {**made, **values}


def gate(rows, old=None, **attrs) -> Gate:
    frame = frame_of(rows)
    frame.attrs.update(attrs)
    return gate_of(frame, None if old is None else Baseline(tuple(old), {}, "b.json"))


def test_equal_rows_are_as_expected():
    found = gate([row()], [row()])
    assert found.exit_code is Exit.AS_EXPECTED
    assert found.headline == "As expected: 1 of 1 combinations of tiny work, as in the baseline"


@pytest.mark.parametrize(
    "status", ["wrong_output", "load_error", "forward_error", "out_of_memory", "killed", "timeout", "unsupported"]
)
def test_a_row_that_worked_and_does_not_any_more_is_worse(status):
    found = gate([row(status=status, error_type="E")], [row()])
    assert found.exit_code is Exit.WORSE
    assert found.headline.startswith("Worse than the baseline: 1 of 1 combinations of tiny, auto × none")
    assert f"was ok, is {status}" in found.headline


NOISE = np.random.default_rng(0).normal(scale=1e-6, size=ANSWER.shape).astype(np.float32)
SLOW = row(load_seconds=900.0, forward_seconds=60.0, peak_host_bytes=10**12)
LEFT_OUT = row("cpu", "not_run")
KILLED = row(status="killed", error_type="SIGKILL")
CODES = {  # the rows of a run, those of the baseline, and what the run comes to
    "a row that works now is no failure": ([row()], [row(status="load_error", error_type="E")], Exit.AS_EXPECTED),
    "the noise of other kernels is no other answer": ([row(outputs=ANSWER + NOISE)], [row()], Exit.AS_EXPECTED),
    "seconds and peaks never count": ([SLOW], [row(load_seconds=1.0)], Exit.AS_EXPECTED),
    "lost packing is worse": ([row(n_quantized=0)], [row(n_quantized=42)], Exit.WORSE),
    "missing weights are worse": ([row(n_missing=1)], [row()], Exit.WORSE),
    "weights that are there again are not": ([row(n_missing=0)], [row(n_missing=1)], Exit.AS_EXPECTED),
    "what was left out in the baseline too is expected": ([row(), LEFT_OUT], [row(), LEFT_OUT], Exit.AS_EXPECTED),
    "worse wins over not judged": ([KILLED, LEFT_OUT], [row(), row("cpu")], Exit.WORSE),
    "a refusal is an outcome that is expected": ([row(status="unsupported")], None, Exit.AS_EXPECTED),
    "a full device is an outcome that is expected": ([row(status="out_of_memory")], None, Exit.AS_EXPECTED),
    "nothing at all is not judged": ([], None, Exit.NOT_JUDGED),
}


@pytest.mark.parametrize("sentence", CODES)
def test_what_a_run_comes_to(sentence):
    rows, old, code = CODES[sentence]
    assert gate(rows, old).exit_code is code


def test_another_answer_is_worse_though_both_runs_were_right():
    changed = ANSWER.copy()
    changed[5] += np.linspace(-1, 1, 100)
    found = gate([row(outputs=changed, answer="Rome")], [row()])
    assert found.exit_code is Exit.WORSE
    assert "the answer is off by about" in found.headline and "“Rome” instead of “Paris”" in found.headline


@pytest.mark.parametrize(
    ("placed", "worse"),
    [
        ({"cuda:0": 600_000, "offloaded to disk": 400_000}, True),
        ({"cuda:0": 600_000, "cpu": 400_000}, True),
        ({"cuda:0": 600_000, "cuda:1": 400_000}, False),
        ({"cuda:0": 999_999, "cpu": 1}, False),
    ],
)
def test_weights_that_left_the_accelerator_are_worse_and_a_new_split_is_not(placed, worse):
    found = gate([row(placed=placed)], [row()])
    assert found.exit_code is (Exit.WORSE if worse else Exit.AS_EXPECTED)


def test_weights_that_a_stranger_pushed_off_the_device_can_not_be_judged():
    held = json.dumps([{"device": "cuda:0", "program": "x", "owner": "another user", "pid": 7, "nbytes": 10**9}])
    pushed = row(placed={"cuda:0": 100_000, "cpu": 900_000}, held_by=held)
    assert gate([pushed], [row()]).exit_code is Exit.NOT_JUDGED
    out = row(status="out_of_memory", error_type="OutOfMemoryError", held_by=held)
    assert gate([out], [row()]).exit_code is Exit.NOT_JUDGED
    mine = held.replace("another user", "this run")
    assert gate([{**pushed, "held_by": mine}], [row()]).exit_code is Exit.WORSE


@pytest.mark.parametrize(
    "values",
    [
        {"status": "load_error", "error_type": "CheckpointError"},
        {"status": "not_run"},
        {"status": "unchecked"},
        {"status": "forward_error", "error_type": "RuntimeError", "error_text": "x: No space left on device"},
    ],
)
def test_what_says_nothing_about_the_model_could_not_be_judged(values):
    found = gate([row(**values), row("cpu")], [row(), row("cpu")])
    assert found.exit_code is Exit.NOT_JUDGED
    assert found.headline.startswith("Could not judge 1 of 2 combinations of tiny: It is")
    assert gate([row(**values)], [row(**values), row("cpu")]).exit_code is Exit.NOT_JUDGED
    assert gate([row(**values), row("cpu")]).exit_code is Exit.AS_EXPECTED
    assert gate([row(**values)]).exit_code is Exit.NOT_JUDGED


@pytest.mark.parametrize("status", ["killed", "timeout", "load_error", "forward_error"])
def test_without_a_baseline_a_run_in_which_nothing_came_to_an_answer_is_not_judged(status):
    """ "0 of 2 combinations work" was as expected."""
    dead = row(status=status, error_type="E", reason="SIGKILL while loading.")
    found = gate([dead, row("disk", "unsupported")])
    assert found.exit_code is Exit.NOT_JUDGED
    assert found.headline == "Could not judge 1 of 2 combinations of tiny: SIGKILL while loading"
    assert gate([dead]).headline == "Could not judge tiny: SIGKILL while loading"
    assert gate([dead], [dead]).exit_code is Exit.AS_EXPECTED
    for known in (row("disk"), row("disk", "out_of_memory"), row("disk", "wrong_output")):
        assert gate([dead, known]).exit_code is Exit.AS_EXPECTED
    with pytest.raises(GateFailed) as failed:
        gate([dead]).check()
    assert ("--retry-failed" in failed.value.next_step) == (status in ("killed", "timeout"))


def test_what_got_worse_is_said_with_what_the_row_knows_of_it():
    changed = ANSWER[::-1].copy()
    lost = "It is ok. 9 tensors are not in the checkpoint and were newly initialised, 'x' among them."
    found = gate([row(outputs=changed, reason=lost)], [row()])
    assert found.headline.endswith("of its size. 9 tensors are not in the checkpoint and were newly initialised, 'x' "
                                   "among them")  # fmt: skip
    assert "It is ok" not in found.rows[0].why
    assert Gate.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_answers_that_can_not_be_compared_are_not_the_same():
    lost = row()
    lost["facts"] = {**lost["facts"], "sketch": "", "digest": "another"}
    assert gate([row()], [lost]).exit_code is Exit.WORSE


def test_another_probe_than_in_the_baseline_is_said_first():
    other = row()
    other["facts"] = {**other["facts"], "probe": "another prompt", "digest": "another"}
    found = gate([other], [row()])
    assert found.headline.endswith("as in the baseline in all but the answers, which are not compared")
    assert any("1 rows were asked another probe" in text for text in found.warnings)


def test_new_and_missing_rows_only_warn():
    found = gate([row(), row("cpu")], [row(), row("disk")])
    assert found.exit_code is Exit.AS_EXPECTED
    assert any("1 rows are new" in text and "cpu × none" in text for text in found.warnings)
    assert any("1 rows of the baseline were not asked for: disk × none" in text for text in found.warnings)


def test_a_baseline_without_a_row_in_common_judges_nothing():
    found = gate([row("cpu")], [row("disk")])
    assert found.exit_code is Exit.NOT_JUDGED
    assert "no row in common" in found.headline


def test_a_model_in_a_new_folder_is_held_against_the_old_one_and_that_is_said():
    changed = ANSWER[::-1].copy()
    found = gate([row(model="/nightly/25", outputs=changed)], [row(model="/nightly/24")])
    assert found.exit_code is Exit.WORSE
    assert any("made for /nightly/24" in text for text in found.warnings)


def test_rows_that_were_not_saved_are_not_judged_and_a_failure_still_counts():
    assert gate([row()], not_saved="the disk is full").exit_code is Exit.NOT_JUDGED
    assert gate([row(status="killed")], [row()], not_saved="the disk is full").exit_code is Exit.WORSE


def test_a_failed_gate_raises_with_its_sentence_and_an_open_one_does_not():
    gate([row()], [row()]).check()
    with pytest.raises(GateFailed, match="Worse than the baseline") as failed:
        gate([row(status="killed")], [row()]).check()
    assert failed.value.exit_code is Exit.WORSE


def test_a_baseline_is_read_as_it_was_written_without_secrets(tmp_path):
    rows = rows_of(frame_of([row(answer="token hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345")]))
    write_baseline(tmp_path / "new" / "b.json", rows, {"torch": "2.13.0"})
    text = (tmp_path / "new" / "b.json").read_text()
    assert "hf_aBc" not in text
    known = read_baseline(tmp_path / "new" / "b.json")
    assert known.models == {"tiny"} and known.versions == {"torch": "2.13.0"}
    assert gate_of(frame_of([row()]), known).rows[0].standing in ("same", "changed")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "there is no baseline"), ("{", "can't be read"), ("[]", "is no baseline of diag"),
     ('{"format": "diag baseline", "version": 99, "rows": []}', "newer diag")],
)  # fmt: skip
def test_a_file_that_is_no_baseline_is_wrong_usage(tmp_path, text, said):
    path = tmp_path / "b.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecError, match=said):
        read_baseline(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(rows=[1, 2]),
        lambda value: value.update(versions=None),
        lambda value: value.update(versions={"torch": 1}),
        lambda value: value.update(version="x"),
        lambda value: value["rows"][0].pop("status"),
        lambda value: value["rows"][0].update(n_missing="many"),
        lambda value: value["rows"][0].update(facts="text"),
        lambda value: value["rows"][0].update(spec=[1]),
        lambda value: value["rows"][0]["facts"].update(map="{{"),
        lambda value: value["rows"][0]["facts"].update(map="[]"),
        lambda value: value["rows"][0]["facts"].update(sketch="@@@"),
        lambda value: value["rows"][0]["facts"].update(placed=[1]),
        lambda value: value["rows"][0]["facts"].update(placed={"cpu": "much"}),
        lambda value: value["rows"][0]["facts"].update(digest=5),
    ],
)
def test_a_damaged_baseline_is_wrong_usage_and_never_the_same(tmp_path, change):
    path = tmp_path / "b.json"
    write_baseline(path, rows_of(frame_of([row()])), {"torch": "2.13.0"})
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(SpecError, match=r"is damaged"):
        read_baseline(path)
