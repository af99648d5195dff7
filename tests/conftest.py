"""What every test shares: a quiet, offline, single-threaded process, and the sample checkpoints.

Samples live in the user's cache under a name that changes with their recipe, so a run makes them at most once.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# Before anything imports torch: children inherit these too.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # `pytest &` in a script; children would not hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

import diag  # noqa: E402
from diag.errors import UnsupportedError  # noqa: E402
from diag.loading import samples  # noqa: E402

MADE_SAMPLES = tuple(name for name in samples.names() if name != "smollm2")


@pytest.fixture(scope="session", params=MADE_SAMPLES)
def any_sample(request) -> str:
    """Each made sample's name in turn: a test that takes it runs once per architecture."""
    samples.path(request.param)
    return request.param


@pytest.fixture
def load_quantized():
    """Loads a sample quantized, on the CPU; skips what this CPU can't compute for an older library's module classes."""

    def loaded(sample: str, quantization: str):
        outcome = diag.load(diag.LoadSpec(sample, device_map="none", quantization=quantization))
        # transformers 4 makes the experts' router a Linear of 4 outputs: no 4-bit kernel for it with AVX512-BF16
        if version("transformers").startswith("4.") and isinstance(outcome.error, UnsupportedError):
            pytest.skip(str(outcome.error))
        assert outcome.ok, outcome.error
        return outcome.model

    return loaded


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    return samples.path("tiny")


@pytest.fixture
def file_system_of(tmp_path):
    """Gives a folder of its own with room for so much ("64k"); skips where none can be mounted."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / "small"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount a small file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def tiny_copy(tiny_path, tmp_path) -> Path:
    """A private copy of the tiny checkpoint, for tests that damage files."""
    return shutil.copytree(tiny_path, tmp_path / "tiny-copy")


@pytest.fixture(scope="session")
def bert_path() -> Path:
    return samples.path("tiny-bert")


@pytest.fixture(scope="session")
def mixtral_path() -> Path:
    return samples.path("tiny-mixtral")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """Real weights; where neither package nor hub has them the test fails and says how to get them."""
    return samples.path("smollm2")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program of a Chromium; tests that take it are marked `browser`."""
    return _browser() or pytest.skip("no Chromium here")


def pytest_collection_modifyitems(items):
    needs = (("gpu", _accelerator, "no accelerator here"), ("browser", _browser, "no Chromium here"))
    for marker, is_there, reason in needs:
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_there():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def _accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _browser() -> str | None:
    programs = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((program for program in programs if program), None)


@pytest.fixture
def real_machine():
    """Hides simulated GPUs before and after: one process runs many tests, and what one loaded onto would stay."""
    _hide_simulated()
    yield
    _hide_simulated()


def _hide_simulated():
    simulated = sys.modules.get("diag.simgpu")
    if simulated is not None:
        gc.collect()
        simulated.park()
