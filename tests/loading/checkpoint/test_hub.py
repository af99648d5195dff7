"""A hub model costs seconds, not minutes: against a real server on this machine that plays the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from hub_server import Hub

ASK = """
import json, sys, time
from diag.loading.checkpoint import hub
from diag.errors import DiagError
start = time.monotonic()
try:
    access = hub.look("team/model")
    said = {"folder": str(access.folder) if access.folder else None, "nbytes": access.nbytes, "note": access.note}
except DiagError as error:
    said = {"error": type(error).__name__, "text": str(error)}
print(json.dumps({**said, "seconds": time.monotonic() - start}))
"""
LOAD = """
import diag
outcome = diag.load(diag.LoadSpec("team/model", "none"))
print(outcome.error or type(outcome.model).__name__)
"""


def python(code: str, tmp_path, **variables) -> str:
    """Runs `code` in a process of its own: huggingface_hub reads its variables once, when it is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environ = {**kept, "HF_HOME": str(tmp_path / "hf"), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def ask(tmp_path, **variables) -> dict:
    return json.loads(python(ASK, tmp_path, **variables))


@pytest.fixture
def repository(tiny_path):
    hub = Hub(tiny_path)
    yield hub
    hub.shutdown()


RESTRICTED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model team/model is restricted"}


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (403, RESTRICTED, ("the repository 'team/model' is gated", "HF_TOKEN")),
        (403, {}, ("gated or closed to this account", "answered 403")),
        (404, {"X-Error-Code": "RepoNotFound"}, ("has no model 'team/model'",)),
    ],
)
def test_what_the_hub_refuses_is_named_as_that(tmp_path, status, headers, says):
    hub = Hub(says=(status, headers))
    said = ask(tmp_path, HF_ENDPOINT=hub.address)
    hub.shutdown()
    assert said["error"] == "CheckpointError"
    assert all(text in said["text"] for text in says), said


def test_a_mirror_is_asked_and_what_is_to_be_downloaded_is_counted(tmp_path, repository, tiny_path):
    said = ask(tmp_path, HF_ENDPOINT=repository.address)
    weights = sum(p.stat().st_size for p in tiny_path.glob("*.safetensors"))
    assert said["folder"] is None and said["nbytes"] > weights
    assert not (tmp_path / "hf" / "hub").exists() or not list((tmp_path / "hf" / "hub").rglob("*.safetensors"))


def test_a_model_from_a_mirror_is_loaded_and_then_works_offline_and_without_the_hub(tmp_path, repository):
    assert python(LOAD, tmp_path, HF_ENDPOINT=repository.address) == "LlamaForCausalLM"
    repository.shutdown()
    repository.server_close()
    offline = ask(tmp_path, HF_ENDPOINT=repository.address, HF_HUB_OFFLINE="1")
    assert offline["folder"] and not offline["note"]
    gone = ask(tmp_path, HF_ENDPOINT=repository.address)
    assert gone["folder"] == offline["folder"] and "The copy in the cache is used" in gone["note"]


def test_offline_mode_says_so(tmp_path):
    text = ask(tmp_path, HF_HUB_OFFLINE="1")["text"]
    assert "not in the cache" in text and "offline mode is on" in text


def test_a_hub_that_does_not_answer_costs_seconds(tmp_path):
    import socket

    with socket.socket() as deaf:  # takes connections and never says a word
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(64)
        start = time.monotonic()
        said = ask(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{deaf.getsockname()[1]}")
    assert "did not answer within 5 s" in said["text"]
    assert said["seconds"] < 20 < 600 and time.monotonic() - start < 120


def test_a_full_cache_is_found_before_the_download(tmp_path, repository, file_system_of):
    said = ask(tmp_path, HF_ENDPOINT=repository.address, HF_HUB_CACHE=str(file_system_of("512k")))
    assert "there is no room for 'team/model' in the cache" in said["text"]


def test_a_read_only_cache_works_where_it_is_whole_and_says_so_where_it_is_not(tmp_path, repository):
    assert python(LOAD, tmp_path, HF_ENDPOINT=repository.address) == "LlamaForCausalLM"
    folder = tmp_path / "hf"
    mounted = subprocess.run(["mount", "--bind", folder, folder], capture_output=True)
    if mounted.returncode or subprocess.run(["mount", "-o", "remount,ro,bind", folder], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        assert python(LOAD, tmp_path, HF_ENDPOINT=repository.address) == "LlamaForCausalLM"
        subprocess.run(["mount", "-o", "remount,rw,bind", folder], check=True)
        next((folder / "hub").rglob("model-00001*.safetensors")).unlink()
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        said = ask(tmp_path, HF_ENDPOINT=repository.address)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
    assert "can't be written to" in said["text"]


PLAN = """
import json
from diag.values.spec import grid
from diag.sweep.run import price
found = price(grid("team/model", ["auto", "disk"], ["none", "nf4"]))
print(json.dumps({"rows": found.rows, "loads": found.loads, "refused": found.refused, "nbytes": found.nbytes,
                  "download": found.download, "text": str(found)}))
"""


def test_a_plan_of_a_model_that_is_not_here_downloads_no_weights(tmp_path, repository, tiny_path):
    said = json.loads(python(PLAN, tmp_path, HF_ENDPOINT=repository.address))
    weights = sum(p.stat().st_size for p in tiny_path.glob("*.safetensors"))
    assert (said["rows"], said["loads"], said["refused"]) == (4, 3, 1)
    assert said["download"] > weights and said["nbytes"] == 5 * weights and "to download" in said["text"]
    assert repository.sent < weights / 4
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


COMMAND = """
import contextlib, io, json
from diag.views.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as said:
    code = main(["matrix", "team/model", "--device-map", "auto,disk", "--quantization", "none", "--plan"])
print(json.dumps({"code": code, "said": said.getvalue()}))
"""


def test_a_plan_without_the_hub_could_not_judge_and_says_what_to_do(tmp_path):
    said = json.loads(python(COMMAND, tmp_path, HF_ENDPOINT="http://127.0.0.1:1"))
    assert said["code"] == 3, said
    assert "2 could not be planned" in said["said"] and "did not answer" in said["said"]
    assert said["said"].count("could not be planned: ") == 1 and "Next: " in said["said"]
    assert "refused" not in said["said"].splitlines()[0] and ".." not in said["said"]


def test_a_plan_of_bin_weights_that_are_not_here_says_how_to_go_on(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (folder / "pytorch_model.bin").write_bytes(b"x" * 100)
    hub = Hub(folder)
    said = json.loads(python(COMMAND, tmp_path, HF_ENDPOINT=hub.address))
    hub.shutdown()
    assert said["code"] == 3 and "pytorch_model.bin" in said["said"], said
    assert "Next: run it without --plan, or download it first." in said["said"]
