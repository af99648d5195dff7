"""matrix(): one row per spec whatever happens in a cell, and nothing is done twice."""

import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest
from places import HELPERS

import diag
from diag.errors import DiagError, SpecError
from diag.machine import processes as posix
from diag.models.table import PLACEMENT_COLUMNS
from diag.sweep.isolate import launch
from diag.sweep.results.rows import MATRIX_COLUMNS
from diag.sweep.run import price
from diag.values.spec import PRESETS, LoadSpec, grid

CELLS = "matrix_helpers"


@pytest.fixture(autouse=True)
def _helpers_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HELPERS))


def own(name: str, **values) -> LoadSpec:
    return LoadSpec("tiny", device_map="cpu", loader=f"{CELLS}:{name}", **values)


def run(specs, tmp_path, **values) -> pd.DataFrame:
    return diag.matrix(specs, tmp_path / "results.sqlite", progress=False, **values)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The whole grid on this machine, once for this module: the frame and its results file."""
    results = tmp_path_factory.mktemp("matrix") / "results.sqlite"
    specs = grid("tiny", PRESETS, ("none", "int8", "nf4", "fp4"))
    return specs, diag.matrix(specs, results, progress=False), results


def test_there_is_one_row_per_spec_in_the_order_given(full):
    specs, frame, _ = full
    assert list(frame.columns) == list(MATRIX_COLUMNS)
    assert list(zip(frame.device_map, frame.quantization)) == [(s.device_map_text, s.quantization) for s in specs]


def test_unquantized_rows_equal_the_twin_bit_for_bit(full):
    frame = full[1].query("quantization == 'none'")
    assert set(frame.status) == {"ok"} and (frame.max_abs_diff == 0).all() and frame.repeatable.all()
    offloaded = frame.set_index("device_map").n_offloaded
    assert offloaded["disk"] > offloaded["offload"] > 0 and offloaded.drop(["disk", "offload"]).eq(0).all()


def test_quantized_rows_equal_their_quantized_twin_or_are_refused_with_the_rule(full):
    frame = full[1].query("quantization != 'none'")
    refused = frame[frame.device_map.isin(["disk", "offload"])]
    assert set(refused.status) == {"unsupported"} and refused.reason.str.contains("validate_environment").all()
    rest = frame.drop(refused.index)
    assert set(rest.status) == {"ok"} and (rest.max_abs_diff == 0).all()
    assert (rest.quality_kl > 0).all() and rest.reason.str.contains("of 43 linear layers are packed").all()


def test_every_row_is_explained_and_equal_maps_share_a_load(full):
    frame = full[1]
    assert (frame.reason.str.len() > 10).all()
    shared = frame[frame.shared_with.notna()]
    assert set(shared.query("quantization == 'none'").device_map) == {
        "balanced", "balanced_low_0", "sequential", "single", "cpu",
    }  # fmt: skip
    assert shared.reason.str.contains("one load served both").all()


def test_no_row_is_simulated_and_numbers_are_numbers(full):
    frame = full[1]
    assert not frame.simulated.any() and set(frame.hardware) == {"this machine"}
    for column in ("load_seconds", "peak_host_bytes", "n_resident", "kl_divergence"):
        assert pd.api.types.is_numeric_dtype(frame[column])


def test_the_stored_placement_is_the_table_of_a_fresh_load(full):
    specs, _, results = full
    spec = next(s for s in specs if s.device_map == "offload" and s.quantization == "none")
    stored = diag.placement_of(results, spec)
    pd.testing.assert_frame_equal(stored, diag.placement(diag.load(spec).model))
    assert list(stored.columns) == list(PLACEMENT_COLUMNS)


def test_a_second_run_loads_nothing_and_gives_the_same_frame(full, monkeypatch):
    specs, frame, results = full
    monkeypatch.setattr("diag.sweep.run._note_end", lambda *a: pytest.fail("something was loaded again"))
    pd.testing.assert_frame_equal(diag.matrix(specs, results, progress=False), frame)


@pytest.mark.skipif(posix.start_method() == "spawn", reason="each cell starts an interpreter of its own here")
def test_a_matrix_starts_one_supervisor(tmp_path, monkeypatch):
    """It once started two, one for the look before the first cell: seconds of imports, also with all rows stored."""
    started = []
    original = launch.ForkServer.__init__

    def counted(self, preload):
        started.append(self)
        original(self, preload)

    launch.close_idle()
    monkeypatch.setattr(launch.ForkServer, "__init__", counted)
    price([LoadSpec("tiny")])
    assert len(started) == 1


def test_placement_of_an_unknown_or_failed_spec_says_what_to_do(full):
    _, _, results = full
    with pytest.raises(DiagError, match="no row"):
        diag.placement_of(results, LoadSpec("tiny", dtype="float16"))
    with pytest.raises(DiagError, match="unsupported"):
        diag.placement_of(results, LoadSpec("tiny", "disk", "nf4"))
    with pytest.raises(DiagError):
        diag.placement_of(results.with_name("absent.sqlite"), LoadSpec("tiny"))


def test_cells_that_die_lose_only_themselves_and_are_named(tmp_path):
    specs = [own("good"), own("kills_itself"), own("exits"), own("segfaults"), own("raises"), own("sleeps_forever"),
             LoadSpec("tiny", "none")]  # fmt: skip
    frame = run(specs, tmp_path, timeout=25)
    assert list(frame.status) == ["ok", "killed", "killed", "killed", "load_error", "timeout", "ok"]
    assert list(frame.error_type[1:4]) == ["SIGKILL", "exit 3", "SIGSEGV"]
    assert "my loader" in frame.error_text[4]
    assert (frame.reason.str.len() > 10).all()


def test_a_cell_that_allocates_without_end_is_out_of_memory(tmp_path):
    frame = run([own("allocates_without_end"), own("good")], tmp_path, memory_limit=2 * 2**30, timeout=120)
    assert list(frame.status) == ["out_of_memory", "ok"]


def test_a_wrong_answer_is_found_though_nothing_was_raised(tmp_path):
    frame = run([own("randomises_one_layer"), own("leaves_a_weight_on_meta")], tmp_path)
    assert list(frame.status) == ["wrong_output", "wrong_output"]
    assert frame.max_abs_diff[0] > 0 and frame.n_missing[1] == 1


def test_an_error_while_running_is_told_from_one_while_loading(tmp_path):
    frame = run([own("leaves_a_norm_on_meta")], tmp_path)
    assert list(frame.status) == ["forward_error"]
    assert "is not on the expected device meta!" in frame.error_text[0]
    assert frame.n_missing[0] == 1


def test_an_answer_that_never_repeats_is_wrong(tmp_path):
    frame = run([LoadSpec("tiny", "none", probe=f"{CELLS}:probe_that_counts_calls")], tmp_path)
    assert list(frame.status) == ["wrong_output"] and list(frame.repeatable) == [False]


def test_a_model_that_is_not_there_is_a_row(tmp_path):
    frame = run([LoadSpec("./absent"), LoadSpec("tiny", "none")], tmp_path)
    assert list(frame.status) == ["load_error", "ok"]
    assert frame.error_type[0] == "CheckpointError"


@pytest.mark.exhaustive
def test_killed_cells_are_tried_once_more_and_then_stay_until_they_are_retried(tmp_path, monkeypatch):
    specs = [own("kills_itself")]
    assert "runs" not in run(specs, tmp_path).reason[0]
    assert "in 2 runs, and is tried again only with --retry-failed" in run(specs, tmp_path).reason[0]
    seen = []
    monkeypatch.setattr("diag.sweep.run._note_end", lambda sweep, ended: seen.append(ended.key))
    assert list(run(specs, tmp_path).status) == ["killed"] and seen == []
    run(specs, tmp_path, retry_failed=True)
    assert any(key.startswith("load") for key in seen)


@pytest.mark.exhaustive
def test_a_changed_checkpoint_is_loaded_again(tiny_copy, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    specs = [LoadSpec(str(tiny_copy), "none")]
    before = run(specs, tmp_path)
    shard = sorted(tiny_copy.glob("model-*.safetensors"))[0]
    tensors = {name: torch.randn_like(t) for name, t in load_file(shard).items()}
    save_file(tensors, shard, metadata={"format": "pt"})
    after = run(specs, tmp_path)
    assert list(after.status) == ["ok"] and after.answer[0] != before.answer[0], after.answer[0]


def test_duplicates_and_other_things_than_specs_are_refused(tmp_path):
    with pytest.raises(SpecError, match="twice"):
        run([LoadSpec("tiny"), LoadSpec("tiny")], tmp_path)
    with pytest.raises(SpecError, match="LoadSpec"):
        run(["tiny"], tmp_path)


def test_no_specs_give_an_empty_frame_with_all_columns(tmp_path):
    assert list(run([], tmp_path).columns) == list(MATRIX_COLUMNS)


@pytest.mark.exhaustive
def test_cancelling_keeps_what_was_finished_and_marks_the_rest(tmp_path):
    rows = []
    specs = [own("good", probe=text) for text in ("one", "two", "three")]
    frame = run(specs, tmp_path, workers=1, on_row=rows.append, cancelled=lambda: len(rows) >= 1)
    assert frame.status[0] == "ok" and frame.status[2] == "not_run"
    again = run(specs, tmp_path)
    assert set(again.status) == {"ok"}


def test_a_full_disk_loses_no_row_of_the_frame(tmp_path, monkeypatch):
    from diag.sweep.results.store import Store

    def full(self, *args, **kwargs):
        raise DiagError("the disk is full.")

    monkeypatch.setattr(Store, "save", full)
    frame = run([LoadSpec("tiny", "none")], tmp_path)
    assert list(frame.status) == ["ok"] and "full" in frame.attrs["not_saved"]


CONTRACT = """
    import diag
    spec    = diag.LoadSpec("tiny", device_map="disk")
    outcome = diag.load(spec)
    table   = diag.placement(outcome.model)
    frame   = diag.matrix(diag.grid("tiny", ["none", "disk"], ["none"]), results="results.sqlite")
    print("rows", list(frame.status), len(table))
"""


def test_a_plain_script_without_a_main_guard_works_and_is_not_imported_again(tmp_path):
    (tmp_path / "caller.py").write_text(textwrap.dedent(CONTRACT))
    out = subprocess.run([sys.executable, "caller.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert out.stdout.count("rows ['ok', 'ok']") == 1, out.stderr


@pytest.mark.exhaustive
def test_standard_input_works(tmp_path):
    out = subprocess.run(
        [sys.executable], input=textwrap.dedent(CONTRACT), cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert out.stdout.count("rows ['ok', 'ok']") == 1, out.stderr


def test_an_interrupt_keeps_finished_rows_and_says_how_to_go_on(tmp_path):
    code = f"""
        import sys; sys.path.insert(0, {str(HELPERS)!r})
        import diag
        specs = [diag.LoadSpec("tiny", "none"), diag.LoadSpec("tiny", "cpu", loader="{CELLS}:sleeps_forever")]
        diag.matrix(specs, "results.sqlite", workers=1)
        """
    (tmp_path / "caller.py").write_text(textwrap.dedent(code))
    process = subprocess.Popen([sys.executable, "caller.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "1/2" in line:
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "1 of 2 rows were finished" in rest, "".join(lines) + rest
    frame = run([LoadSpec("tiny", "none")], tmp_path)
    assert list(frame.status) == ["ok"]


@pytest.mark.slow
def test_real_weights_are_right_under_every_map_and_quantization(tmp_path):
    frame = run(grid("smollm2", PRESETS, ("none", "int8", "nf4", "fp4")), tmp_path)
    assert set(frame.status) == {"ok", "unsupported"}
    plain = frame.query("quantization == 'none'")
    assert (plain.max_abs_diff == 0).all() and plain.answer.str.contains("Paris").all()
    assert (plain.set_index("device_map").n_offloaded[["disk", "offload"]] > 0).all()
