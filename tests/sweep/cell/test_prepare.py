"""Before the first cell: room, devices, shards. Real file systems, and a driver of our own."""

import nvidia_driver
import pytest

import diag
from diag.errors import CheckpointError, CouldNotJudgeError
from diag.loading.recipe import check_offload_folder
from diag.sweep.cell.prepare import devices_in_the_way, look_before
from diag.values.spec import LoadSpec

OLLAMA = (424242, "ollama", 4 * 2**30)


@pytest.fixture
def one_gpu(tmp_path, monkeypatch):
    """Installs a driver with one GPU of this compute mode, which ollama holds or nobody."""

    def install(mode: str, held: bool) -> None:
        number = {"Default": 0, "Prohibited": 2, "Exclusive_Process": 3}[mode]
        gpu = nvidia_driver.gpu("GPU-aaa", 4 * 2**30, *[OLLAMA] * held, mode=number)
        nvidia_driver.install(tmp_path, monkeypatch, gpu)

    return install


def test_a_gpu_in_exclusive_mode_that_another_holds_is_named_with_its_holder(one_gpu):
    one_gpu("Exclusive_Process", held=True)
    found = devices_in_the_way()
    assert isinstance(found, CouldNotJudgeError)
    assert "GPU 0 is in exclusive mode, and ollama (pid 424242) holds it" in found.what
    assert "4 GiB" in found.why


@pytest.mark.parametrize(("mode", "held"), [("Default", True), ("Exclusive_Process", False)])
def test_a_shared_or_a_free_gpu_is_in_nobodys_way(one_gpu, mode, held):
    one_gpu(mode, held)
    assert devices_in_the_way() is None


def test_a_gpu_that_takes_no_work_is_named(one_gpu):
    one_gpu("Prohibited", held=False)
    assert "Prohibited" in devices_in_the_way().what


@pytest.mark.exhaustive
def test_rows_of_a_held_machine_could_not_be_judged_and_simulated_ones_are(one_gpu, tmp_path):
    one_gpu("Exclusive_Process", held=True)
    specs = [LoadSpec("tiny", "none"), LoadSpec("tiny", "auto", hardware="1GiB+1GiB")]
    frame = diag.matrix(specs, tmp_path / "r.sqlite", progress=False)
    assert list(frame.status) == ["not_run", "ok"]
    assert "exclusive mode" in frame.reason[0] and frame.error_type[0] == "CouldNotJudgeError"


def test_a_missing_shard_is_found_before_anything_is_loaded_and_tried_again_when_it_is_back(tiny_copy, tmp_path):
    shard = sorted(tiny_copy.glob("model-*.safetensors"))[1]
    shard.rename(tmp_path / "kept")
    specs = [LoadSpec(str(tiny_copy), "none"), LoadSpec("tiny", "none")]
    before = look_before(specs)
    assert list(before.refused) == [str(tiny_copy)]
    frame = diag.matrix(specs, tmp_path / "r.sqlite", progress=False)
    assert list(frame.status) == ["load_error", "ok"] and "shards are missing" in frame.reason[0]
    (tmp_path / "kept").rename(shard)
    assert list(diag.matrix(specs, tmp_path / "r.sqlite", progress=False).status) == ["ok", "ok"]


@pytest.fixture
def small(file_system_of):
    return file_system_of("64k")


def test_a_results_file_without_room_is_refused_before_anything_is_loaded(small):
    with pytest.raises(CheckpointError, match="no room for the results file"):
        diag.matrix([LoadSpec("tiny", "none")], small / "r.sqlite", progress=False)


def test_an_offload_folder_without_room_or_that_is_a_file_is_refused(small, tmp_path):
    with pytest.raises(CouldNotJudgeError, match="there is no room in the offload folder"):
        check_offload_folder(LoadSpec("tiny", "disk", offload_folder=str(small)), 10**6)
    check_offload_folder(LoadSpec("tiny", "disk", offload_folder=str(small)), 0)
    (tmp_path / "file").touch()
    with pytest.raises(CouldNotJudgeError, match="is a file"):
        check_offload_folder(LoadSpec("tiny", "disk", offload_folder=str(tmp_path / "file")), 0)


def test_weights_that_would_be_copied_into_a_full_folder_could_not_be_judged(small, tmp_path):
    """Experts are put together by a converter, so they are written; plain safetensors are read where they are."""
    specs = [LoadSpec(name, "disk", offload_folder=str(small)) for name in ("tiny-mixtral", "tiny")]
    frame = diag.matrix(specs, tmp_path / "r.sqlite", progress=False)
    assert list(frame.status) == ["load_error", "ok"]
    assert "no room in the offload folder" in frame.reason[0]


def test_a_request_or_probe_that_can_not_be_asked_is_found_before_anything_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "cut.json").write_text('{"input_ids": [[1,2')
    (tmp_path / "fine.json").write_text("[1, 2, 3]")
    probes = [str(tmp_path / "absent.json"), str(tmp_path / "cut.json"), "no_such_module:probe", "os:no_such_function"]
    found = look_before([LoadSpec("tiny", probe=probe) for probe in (*probes, str(tmp_path / "fine.json"), "os:walk")])
    assert list(found.probes) == probes
    monkeypatch.setattr("diag.sweep.run._tasks", lambda *_: pytest.fail("something is loaded"))
    frame = diag.matrix([LoadSpec("tiny", "cpu", probe=probe) for probe in probes], None, progress=False)
    assert list(frame.status) == ["not_run"] * 4
    assert "is not there" in frame.reason[0] and "can't be used" in frame.reason[1]
    assert "can't be imported" in frame.reason[2] and "has no 'no_such_function'" in frame.reason[3]


def test_adapters_and_samples_need_no_hub():
    assert look_before([LoadSpec("tiny")]).refused == {}
