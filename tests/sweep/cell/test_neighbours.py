"""Each row says who else was there: free memory before and after, and what others held."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

import diag
from diag.sweep.cell import neighbours
from diag.sweep.cell.records import Other
from diag.values.spec import LoadSpec

MIB = 2**20


def test_free_memory_of_every_device_is_kept_before_and_after(tmp_path):
    specs = [LoadSpec("tiny", "auto", hardware="2x64MiB+1GiB"), LoadSpec("tiny", "none")]
    frame = diag.matrix(specs, tmp_path / "r.sqlite", progress=False)
    for column in ("free_bytes_before", "free_bytes_after"):
        simulated, real = (json.loads(text) for text in frame[column])
        assert set(simulated) == {"cpu", "simgpu:0", "simgpu:1"} and real["cpu"] > 0
    before, after = json.loads(frame.free_bytes_before[0]), json.loads(frame.free_bytes_after[0])
    assert before["simgpu:0"] == 64 * MIB > after["simgpu:0"]


def test_what_simulated_strangers_hold_is_named_and_said_in_the_row(tmp_path):
    frame = diag.matrix([LoadSpec("tiny", "auto", hardware="64MiB-62MiB+1GiB")], tmp_path / "r.sqlite", progress=False)
    (held,) = [one for one in json.loads(frame.held_by[0]) if one["device"] != "cpu"]
    assert (held["device"], held["nbytes"]) == ("simgpu:0", 62 * MIB)
    assert "simgpu:0: simulated process" in frame.reason[0] and "held 62 MiB" in frame.reason[0]


def test_a_large_process_of_somebody_is_found_and_our_own_family_is_not(monkeypatch):
    monkeypatch.setattr(neighbours, "_SHARE_WORTH_NAMING", 1e-6)
    monkeypatch.setattr(neighbours, "_HOST_PROCESSES", 10_000)
    code = "import sys; kept = bytearray(b'x') * (64 * 2**20); print('ready', flush=True); sys.stdin.read()"
    # The parent ends at once, so that its child belongs to nobody here.
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}])"
    stranger = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert stranger.stdout.readline() == "ready\n" and stranger.wait(timeout=30) == 0
        found = {other.pid: other for other in neighbours.others() if other.device == "cpu"}
    finally:
        stranger.stdin.close()
    assert os.getpid() not in found and os.getppid() not in found
    assert all(other.nbytes > 0 and other.owner in ("this user", "another user", "unknown") for other in found.values())
    assert any(other.nbytes > 60 * MIB for other in found.values())


def test_it_is_said_in_words():
    one = Other("cuda:0", "ollama", "another user", 71, 4 * 2**30)
    assert str(one) == "cuda:0: ollama (pid 71, another user) held 4 GiB"
    assert str(replace(one, pid=None, nbytes=None)).endswith("(another user) held an unknown amount")


@pytest.mark.gpu
def test_a_process_that_holds_gpu_memory_is_in_the_row(tmp_path):
    code = "import torch, sys; kept = torch.empty(2**28, device='cuda'); print('ready', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "ready\n"
        frame = diag.matrix([LoadSpec("tiny", "auto")], tmp_path / "r.sqlite", progress=False)
    finally:
        other.stdin.close()
        other.wait(timeout=60)
    held = [one for one in json.loads(frame.held_by[0]) if one["device"].startswith("cuda")]
    assert any(one["nbytes"] and one["nbytes"] >= 2**28 for one in held)
