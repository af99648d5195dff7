"""Price first: what a matrix will take, and what is left out where not all may be loaded."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from places import HELPERS

import diag
from diag.errors import SpecError
from diag.sweep.cell.records import Failure, Planned
from diag.sweep.isolate.deaths import Death
from diag.sweep.isolate.pool import Ended
from diag.sweep.planning import Load
from diag.sweep.pricing import most_informative_first, price_of
from diag.sweep.results.rows import MEASURED_ANEW
from diag.sweep.run import price as price_of_specs
from diag.sweep.state import Options, Sweep
from diag.values.hardware import Hardware
from diag.values.spec import LoadSpec, grid

MIB = 2**20


def load(device_map="auto", quantization="none", hardware=None, *, rows=1, where="0", nbytes=MIB, written=0) -> Load:
    plans = [
        Planned(LoadSpec("tiny", device_map, quantization, hardware, dtype="float32" if i else "auto"), nbytes=nbytes,
                resolved_map=json.dumps({"": where}), placed={where: nbytes}, written=written)
        for i in range(rows)
    ]  # fmt: skip
    return Load(f"{device_map} {quantization} {hardware}", tuple(plans))


def priced(loads, *, twins=True, free=100 * MIB, workers=1, seconds=None, failures=()):
    """The price of loads in a run that knows them and `failures`; `seconds` is what a load took in an earlier run."""
    plans = [plan for one in loads for plan in one.plans] + [Planned(LoadSpec(f"m{i}"), failure=f) for i, f in failures]
    stored = {"model": "tiny", "cell_seconds": seconds, "load_seconds": seconds}
    store = SimpleNamespace(reference=lambda key: None if twins else b"", rows=lambda: {"key": stored})
    sweep = Sweep([plan.spec for plan in plans], store, Options(), None, free={"cpu": free}, workers=workers)
    sweep.plans = {plan.spec: plan for plan in plans}
    return price_of(sweep, loads)


def failed(*statuses):
    return [(i, Failure(status, "", "", "why")) for i, status in enumerate(statuses)]


def test_equal_cells_are_counted_once():
    loads = [load(rows=3), load("cpu", where="cpu")]
    found = priced(loads, failures=failed("unsupported"))
    assert (found.loads, found.shared, found.twins, found.refused) == (2, 2, 1, 1)
    assert found.rows == found.loads + found.shared + found.refused + found.stored
    assert found.nbytes == 3 * MIB


def test_host_memory_counts_what_is_not_on_a_real_accelerator_or_disk():
    assert load(where="cuda:0").host_bytes == 0
    assert load(where="disk").host_bytes == 0
    assert load(where="cpu").host_bytes == load(where="simgpu:1").host_bytes == MIB


def test_more_than_half_of_the_host_is_large():
    loads = [load("cpu", where="cpu")]
    assert priced(loads, free=MIB).is_large and not priced(loads, free=3 * MIB).is_large


def test_the_estimate_grows_with_the_loads_and_shrinks_with_the_workers():
    def seconds(count, workers):
        return priced([load(), load("cpu"), load("disk")][:count], twins=False, workers=workers, seconds=10.0).seconds

    assert (seconds(1, 1), seconds(3, 1), seconds(3, 3)) == (10.0, 30.0, 10.0)


def test_the_first_loads_show_what_none_before_showed():
    plain = [load("auto", where="cpu"), load("balanced", where="cpu"), load("disk", where="disk")]
    packed = [load("auto", "nf4", where="cpu"), load("balanced", "nf4", where="cpu")]
    loads = [*plain, *packed, load("cpu", where="cpu", rows=4)]
    first = most_informative_first(loads)[:3]
    assert {(one.plans[0].spec.quantization, one.plans[0].resolved_map) for one in first} == {
        ("none", '{"": "cpu"}'), ("none", '{"": "disk"}'), ("nf4", '{"": "cpu"}'),
    }  # fmt: skip
    assert sorted(map(str, most_informative_first(loads))) == sorted(map(str, loads))


# --- with real plans and loads ----------------------------------------------------------------------------------------


def test_a_plan_loads_nothing_and_counts_what_shares_a_load(tmp_path):
    """One GPU that fits the model: four presets and `single` are the same map."""
    specs = grid(
        "tiny", ["auto", "balanced", "balanced_low_0", "sequential", "single", "disk"], ["none", "nf4"], "1GiB+1GiB"
    )
    found = price_of_specs(specs, tmp_path / "absent.sqlite")
    assert (found.rows, found.loads, found.shared, found.refused) == (12, 3, 8, 1)
    assert "validate_environment" in found.refusals[0]
    assert list(tmp_path.iterdir()) == []


def test_stored_rows_cost_nothing_and_tell_how_long_a_load_takes(tmp_path):
    specs = grid("tiny", ["none", "disk"], ["none"])
    frame = diag.matrix(specs[:1], tmp_path / "r.sqlite", progress=False)
    found = price_of_specs(specs, tmp_path / "r.sqlite")
    assert (found.stored, found.loads) == (1, 1)
    assert found.seconds and found.seconds > frame.load_seconds[0] + 3 * frame.forward_seconds[0], "the whole process"


def test_the_rest_is_estimated_by_the_clock_and_its_numbers_add_up(monkeypatch):
    clock, said = [100.0], []
    monkeypatch.setattr("diag.sweep.state.time.monotonic", lambda: clock[0])
    sweep = Sweep([], None, Options(), SimpleNamespace(say=said.append))
    sweep.begin(9)
    sweep.cells_done, clock[0] = 1, 101.0
    sweep.note_seconds(Ended("died", death=Death("killed", "SIGKILL", ""), seconds=0.01))
    sweep.cells_done, clock[0] = 3, 112.0
    sweep.note_seconds(Ended("load", seconds=0.4))
    sweep.note_seconds(Ended("another", seconds=0.4))
    assert said == ["3 of 9 loads, reference loads included, took 12 s, so the other 6 take about 24 s"]
    sweep.cells_done, clock[0] = 4, 132.0
    sweep.note_seconds(Ended("a slower one", seconds=10.0))
    assert said[1:] == ["4 of 9 loads, reference loads included, took 32 s, so the other 5 take about 40 s"]


@pytest.mark.exhaustive
def test_max_loads_runs_the_most_informative_and_the_rest_can_be_done_later(tmp_path):
    specs = grid("tiny", ["none", "auto", "cpu", "disk"], ["none", "nf4"])
    few = diag.matrix(specs, tmp_path / "r.sqlite", max_loads=2, progress=False)
    done = few[few.status == "ok"]
    assert few[few.shared_with.isna() & (few.status == "ok")].shape[0] == 2
    assert set(done.quantization) == {"none", "nf4"} or set(done.n_offloaded > 0) == {True, False}
    left = few[few.status == "not_run"]
    assert left.reason.str.contains("2 loads were allowed").all() and len(left)
    whole = diag.matrix(specs, tmp_path / "r.sqlite", progress=False)
    assert set(whole.status) == {"ok", "unsupported"}


def test_a_budget_lets_the_first_load_begin_and_marks_the_rest(tmp_path):
    specs = [LoadSpec("tiny", "none", probe=text) for text in ("one", "two", "three", "four")]
    frame = diag.matrix(specs, tmp_path / "r.sqlite", budget=0.01, workers=1, progress=False)
    assert list(frame.status).count("ok") == 1
    assert frame.reason[frame.status == "not_run"].str.contains("budget of").all()


def test_a_deadline_ends_the_run_and_says_so(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HELPERS))
    specs = [LoadSpec("tiny", "cpu", loader="matrix_helpers:sleeps_forever"), LoadSpec("tiny", "none")]
    frame = diag.matrix(specs, tmp_path / "r.sqlite", deadline=25.0, workers=1, progress=False)
    assert frame.status[0] == "not_run" and "deadline" in frame.reason[0]


@pytest.mark.exhaustive
def test_a_run_that_would_fill_the_host_asks_first(tmp_path, monkeypatch):
    monkeypatch.setattr("diag.sweep.pricing._CALM_SHARE", 0.0)
    with pytest.raises(SpecError, match="more than half") as asked:
        diag.matrix([LoadSpec("tiny", "none")], tmp_path / "r.sqlite", yes=False, progress=False)
    assert "--yes" in asked.value.next_step
    assert list(diag.matrix([LoadSpec("tiny", "none")], tmp_path / "r.sqlite", progress=False).status) == ["ok"]


def test_rows_that_could_not_be_planned_are_no_refusals():
    nothing = priced([], failures=failed("load_error", "not_run"))
    assert nothing.is_unknown and (nothing.unread, nothing.hindrances) == (2, ("why",))
    assert str(nothing) == "2 rows; 0 loads and 0 reference loads; 2 could not be planned."
    some = priced([load("cpu", where="cpu")], failures=failed("load_error"))
    refused = priced([], failures=failed("unsupported"))
    assert not some.is_unknown and not refused.is_unknown


@pytest.mark.exhaustive
def test_the_command_plans_and_stops(tmp_path):
    command = [sys.executable, "-m", "diag", "matrix", "tiny", "--hardware", "1GiB+1GiB", "--plan"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("27 rows; ") and "to read" in done.stdout and "offload folder" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.exhaustive
def test_36_specs_of_smollm2_add_up_and_interrupted_and_resumed_gives_the_same_frame(tmp_path):
    specs = grid("smollm2", quantizations=("none", "int8", "nf4", "fp4"), hardware=Hardware.parse("2x300MiB+8GiB"))
    assert len(specs) == 36
    cost = price_of_specs(specs)
    assert cost.rows == 36 == cost.loads + cost.shared + cost.refused
    rows: list[dict] = []
    diag.matrix(specs, tmp_path / "r.sqlite", progress=False, on_row=rows.append, cancelled=lambda: len(rows) >= 14)
    assert 14 <= len(rows) < 36
    resumed = diag.matrix(specs, tmp_path / "r.sqlite", progress=False)
    whole = diag.matrix(specs, tmp_path / "other.sqlite", progress=False)
    loaded = whole.shared_with.isna() & (whole.status != "unsupported")
    assert (int(loaded.sum()), int(whole.shared_with.notna().sum())) == (cost.loads, cost.shared)
    assert int((whole.status == "unsupported").sum()) == cost.refused
    import pandas as pd

    pd.testing.assert_frame_equal(resumed.drop(columns=[*MEASURED_ANEW]), whole.drop(columns=[*MEASURED_ANEW]))
