"""What this machine is: told even where torch is broken, with the container's limit, and without secrets."""

import contextlib
import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path

import nvidia_driver
import psutil
import pytest
from interpreter import python

from diag.machine import environment as env
from diag.machine.accelerators import free_memory
from diag.machine.holders import gpu_holders, nvidia_gpus
from diag.machine.memory import HostMemory, host_memory
from diag.machine.torch_devices import accelerators, ask_torch

GIB = 2**30


@pytest.fixture(scope="module")
def here() -> env.Environment:
    secrets = {"HF_TOKEN": "hf_abcdefghijklmnopqrstuvwx", "HTTPS_PROXY": "http://me:pw12@host:1"}
    return env.environment({**secrets, "A": "b"})


# The whole


def test_versions_are_those_of_the_installation():
    found = env.versions()
    assert found["transformers"] == importlib.metadata.version("transformers")
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert "deepspeed" not in found or importlib.metadata.version("deepspeed")


def test_an_environment_tells_every_section_in_one_text(here):
    sections = {line[:9].strip() for line in str(here).splitlines()}
    assert {"system", "torch", "memory", "version", "disk", "setting"} <= sections
    assert 0 < here.host.free <= here.host.total <= psutil.virtual_memory().total


def test_the_same_facts_stand_in_the_text_and_in_json(here):
    assert json.loads(json.dumps(here.to_dict()))["versions"]["torch"] == here.versions["torch"]
    for name, version in here.versions.items():
        assert f"{name:<26}{version}" in str(here)
    assert "GiB free of" in str(here)


def test_settings_name_what_changes_a_load_and_hide_its_secrets(here):
    assert here.settings == {"HF_TOKEN": "[redacted]", "HTTPS_PROXY": "http://[redacted]@host:1"}
    text = str(here) + json.dumps(here.to_dict())
    assert "hf_abc" not in text
    assert "pw12" not in text


def test_settings_of_every_kind_are_kept_and_others_are_not():
    names = "HF_HOME CUDA_VISIBLE_DEVICES TRANSFORMERS_CACHE PYTORCH_CUDA_ALLOC_CONF no_proxy https_proxy DEVICE_MAP"
    kept = dict.fromkeys(names.split(), "x")
    assert env.settings({**kept, "PATH": "x", "USER": "x", "MY_APP": "x"}) == dict(sorted(kept.items()))


def test_no_home_path_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "somebody" / "hub"))
    told = env.environment()
    assert "somebody" not in str(told)
    assert {disk.use: disk.path for disk in told.disks}["hub cache"] == "~/hub/hub"


def test_disks_tell_the_room_even_of_folders_that_are_not_there_yet(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    disk = next(disk for disk in env.environment().disks if disk.use == "hub cache")
    assert 0 < disk.free_bytes <= disk.total_bytes


def test_the_accelerators_are_those_that_torch_counts(real_machine):
    import torch

    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    assert len(accelerators()) == count


def test_free_memory_can_be_given_to_a_load(real_machine):
    free = free_memory()
    assert 0 < free["cpu"] <= psutil.virtual_memory().total
    assert all(key == "cpu" or isinstance(key, int) for key in free)


@pytest.mark.gpu
def test_the_accelerators_free_memory_is_told_without_a_context_in_this_process():
    device = ask_torch().devices[0]
    assert 0 < device.free_bytes <= device.total_bytes


# torch broken, missing, crashing, hanging

BROKEN = {
    "raise OSError('libcudart.so.12: cannot open shared object file')": "OSError: libcudart.so.12: cannot open shared",
    "raise ImportError('undefined symbol: _ZN2at')": "ImportError: undefined symbol: _ZN2at",
    "raise ModuleNotFoundError(\"No module named 'torch'\")": "No module named 'torch'",
    "raise SystemExit(3)": "SystemExit: 3",
    "import os; os._exit(7)": "torch ended its process: exit 7.",
    "import sys, os; print('boom', file=sys.stderr, flush=True); os.abort()": "torch ended its process: SIGABRT. boom",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "torch ended its process: SIGSEGV.",
    "": "AttributeError",
}


@pytest.fixture
def put_first(tmp_path, monkeypatch):
    """Gives a module with this code to every Python that is started from here."""

    def put(file: str, code: str) -> None:
        monkeypatch.setenv("PYTHONPATH", str(tree(tmp_path, {file: code})))

    return put


@pytest.mark.parametrize("breakage", BROKEN)
def test_a_broken_torch_is_named_and_everything_else_is_told(breakage, put_first):
    put_first("torch/__init__.py", breakage)
    told = env.environment()
    assert BROKEN[breakage] in told.torch.error
    assert told.host.free > 0 and told.versions["transformers"]


def test_a_torch_that_hangs_is_given_up(put_first):
    put_first("torch/__init__.py", "import time; time.sleep(600)")
    assert ask_torch(seconds=1).error == "torch did not answer within 1 s."


def test_a_torch_that_talks_while_it_is_imported_is_still_understood(put_first):
    import torch

    put_first("sitecustomize.py", "print('hello from the site')")
    assert ask_torch().version == torch.__version__


def test_the_module_can_be_imported_and_asked_where_no_library_can_be():
    absent = ["torch", "transformers", "pandas", "numpy", "psutil", "filelock"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
    done = python("-c", f"{code}from diag.machine.environment import environment; print(environment())")
    assert done.returncode == 0, done.stderr
    assert "memory   host" in done.stdout


def test_asking_torch_leaves_it_unimported_in_this_process():
    code = "import sys; from diag.machine.torch_devices import ask_torch; ask_torch(); print('torch' in sys.modules)"
    assert python("-c", code).stdout.strip() == "False"


# The container's limit


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n",
}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/abc\n1:name=systemd:/\n",
    "proc/self/mountinfo": "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
}


def test_without_cgroups_the_machine_is_the_limit(tmp_path):
    assert host_memory(tmp_path).limited_by == "machine"
    assert host_memory(tmp_path).total == psutil.virtual_memory().total


def limited(root: Path, system: dict[str, str], files: dict[str, object]) -> HostMemory:
    return host_memory(tree(root, {**system, **{f"sys/fs/cgroup/{name}": str(text) for name, text in files.items()}}))


def test_a_version_2_limit_counts_less_what_is_used_and_not_given_back(tmp_path):
    files = {"memory.max": f"{GIB}\n", "memory.high": "max\n", "memory.current": f"{GIB // 2}\n"}
    files["memory.stat"] = f"anon 5\ninactive_file {GIB // 4}\nslab 3\n"
    assert limited(tmp_path, V2, files) == HostMemory(GIB // 4 * 3, GIB, "cgroup")


def test_the_tightest_of_the_enclosing_groups_counts(tmp_path):
    files = {"job/memory.max": GIB, "job/memory.current": GIB - 100}
    files |= {"job/step/memory.max": GIB // 2, "job/step/memory.current": 0}
    found = limited(tmp_path, {**V2, "proc/self/cgroup": "0::/job/step\n"}, files)
    assert found == HostMemory(100, GIB // 2, "cgroup")


def test_a_version_1_limit_is_found_where_the_container_mounts_it(tmp_path):
    files = {"memory/memory.limit_in_bytes": GIB, "memory/memory.usage_in_bytes": GIB // 2}
    files["memory/memory.stat"] = f"cache 1\ntotal_inactive_file {GIB // 8}\n"
    assert limited(tmp_path, V1, files) == HostMemory(GIB // 8 * 5, GIB, "cgroup")


def test_version_1s_number_for_no_limit_changes_nothing(tmp_path):
    files = {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1000"}
    found = limited(tmp_path, V1, files)
    assert (found.total, found.limited_by) == (psutil.virtual_memory().total, "machine")


def test_memory_high_is_a_limit_too_and_a_group_over_its_limit_has_nothing_free(tmp_path):
    assert limited(tmp_path, V2, {"memory.max": "max", "memory.high": GIB, "memory.current": 0}).free == GIB
    assert limited(tmp_path, V2, {"memory.max": GIB, "memory.current": 2 * GIB}).free == 0


@pytest.mark.parametrize("file", ["proc/self/cgroup", "proc/self/mountinfo"])
@pytest.mark.parametrize("text", ["", "nonsense", "0::/../../..\n", "4:memory:\n", " - ", "a b c d e - cgroup2"])
def test_odd_system_files_are_survived(tmp_path, file, text):
    assert host_memory(tree(tmp_path, {**V2, file: text})).limited_by == "machine"


def test_a_real_limit_around_this_process_is_seen():
    """In a real memory cgroup of 3 GiB, where this machine lets us make one."""
    memory = Path("/sys/fs/cgroup/memory")
    group = (memory if memory.is_dir() else Path("/sys/fs/cgroup")) / f"diag-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if memory.is_dir() else "memory.max")
        limit.write_text(str(3 * GIB))
    except OSError as e:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no cgroup can be made here: {e.strerror}")
    try:
        code = (
            f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "from diag.machine.memory import host_memory as h; m = h(); print(m.total, m.free, m.limited_by)"
        )
        total, free, limited_by = python("-c", code).stdout.split()
    finally:
        group.rmdir()
    assert (int(total), limited_by) == (3 * GIB, "cgroup")
    assert GIB < int(free) <= 3 * GIB


# Who holds the GPU


def test_the_holders_of_gpu_memory_are_named_largest_first_with_the_rest(tmp_path, monkeypatch):
    mine = (os.getpid(), "/home/alice/venv/bin/python", 10 * GIB)
    others = ((999999999, "ollama, with a comma", 4 * GIB), (999999998, None, None))
    gpus = nvidia_driver.gpu("GPU-aaa", 20 * GIB, mine, *others), nvidia_driver.gpu("GPU-bbb")
    nvidia_driver.install(tmp_path, monkeypatch, *gpus)
    assert [(h.program, h.owner, h.nbytes) for h in gpu_holders()] == [
        ("~/venv/bin/python", "this process", 10 * GIB),
        ("not listed", "unknown", 6 * GIB),
        ("ollama, with a comma", "unknown", 4 * GIB),
        ("not named", "unknown", None),
    ]


@pytest.mark.parametrize("init", ["raise NVMLError('Driver Not Loaded')", "raise OSError('libnvidia-ml.so.1')"])
def test_a_driver_that_is_broken_gives_no_holders_and_no_error(tmp_path, monkeypatch, init):
    nvidia_driver.install(tmp_path, monkeypatch, nvidia_driver.gpu("GPU-aaa", GIB), init=init)
    assert gpu_holders() == ()


def test_a_question_that_the_driver_does_not_answer_leaves_the_others_answered(tmp_path, monkeypatch):
    known = nvidia_driver.gpu("GPU-aaa", None, (999999999, "ollama", GIB), mode=3)
    nvidia_driver.install(tmp_path, monkeypatch, known)
    (gpu,) = nvidia_gpus()
    assert (gpu.index, gpu.uuid, gpu.mode) == (0, "GPU-aaa", "Exclusive_Process")
    assert [(h.program, h.nbytes) for h in gpu.holders] == [("ollama", GIB)]


def test_without_the_drivers_library_there_are_no_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia_gpus() == ()


def test_temporary_files_are_looked_for_where_python_puts_them(here):
    assert tempfile.gettempdir().rstrip("/") in {disk.path for disk in here.disks}
