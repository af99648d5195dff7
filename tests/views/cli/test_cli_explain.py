"""explain, causes, reproduce and service on the command line: what they print, and the exit codes jobs rely on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from diag.diagnosis import causes
from diag.views.cli.main import main

BODY = '{"error": "Tensor on device cuda:0 is not on the expected device meta!"}'
LIGHT = "{'torch', 'transformers', 'accelerate', 'pandas', 'numpy', 'safetensors', 'asyncio', 'psutil'}"


def give(monkeypatch, raw: bytes) -> None:
    """Puts these bytes on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


@pytest.mark.parametrize("command", ["explain body.json", "explain body.json --json", "causes --json"])
def test_explaining_loads_the_standard_library_only(command, tmp_path):
    (tmp_path / "body.json").write_text(BODY)
    code = f"import sys\nfrom diag.views.cli.main import main\nassert main({command.split()}) == 0\n"
    code += f"print({LIGHT} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert said.stdout.splitlines()[-1] == "set()", said.stderr


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_explaining_works_where_no_library_is_installed(option, tmp_path):
    (tmp_path / "body.json").write_text(BODY)
    command = [sys.executable, "-S", "-m", "diag", "explain", "body.json", *option]
    own = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(sys.modules["diag"].__file__))}
    said = subprocess.run(command, cwd=tmp_path, timeout=60, capture_output=True, text=True, env=own)
    assert said.returncode == 0, said.stderr
    assert "hooks-removed" in said.stdout


def test_a_body_gives_ranked_causes_what_to_check_and_a_fix(tmp_path, capsys):
    (tmp_path / "body.json").write_text(BODY)
    assert main(["explain", str(tmp_path / "body.json")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Possible causes, the first one first:")
    assert "because they were offloaded" in text
    assert "Fix:" in text


def test_standard_input_is_read_too(monkeypatch, capsys):
    give(monkeypatch, b"ValueError: `.half()` is not supported for quantized model.")
    assert main(["explain"]) == 0
    assert "quantized-cast (likely)" in capsys.readouterr().out


def test_utf_16_as_powershell_writes_it_is_read(monkeypatch, capsys):
    give(monkeypatch, "\ufefftorch.OutOfMemoryError: CUDA out of memory.".encode("utf-16-le"))
    assert main(["explain", "-"]) == 0
    assert "out-of-memory" in capsys.readouterr().out


def test_json_is_the_findings_and_nothing_else(monkeypatch, capsys):
    give(monkeypatch, BODY.encode())
    assert main(["explain", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["certainty"] == "possible"
    assert first["fix"] and first["check"] and first["because"]


def test_a_text_that_is_none_of_ours_is_exit_code_3(monkeypatch, capsys):
    give(monkeypatch, b"KeyError: 'colour'")
    assert main(["explain"]) == 3
    assert "No known cause" in capsys.readouterr().out


def test_colours_of_a_pasted_text_do_not_reach_the_terminal(monkeypatch, capsys):
    give(monkeypatch, b"  File \"\x1b[31mapp.py\x1b[0m\", line 3, in f\x07\nKeyError: '\x1b]0;title\x07'")
    main(["explain"])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "why"), [("missing.txt", "No such file"), (".", "directory")])
def test_what_can_not_be_read_is_exit_code_2(name, why, tmp_path, capsys):
    assert main(["explain", str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert why in printed.err
    assert "Traceback" not in printed.err


def test_an_empty_text_is_exit_code_2_and_json_where_that_was_asked_for(monkeypatch, capsys):
    give(monkeypatch, b" \n")
    assert main(["explain", "--json"]) == 2
    assert "no text to explain" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_causes_lists_all_and_explains_one(capsys):
    assert main(["causes"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(causes.ids()) >= 31
    assert main(["causes", "hooks-removed"]) == 0
    assert "Avoid:" in capsys.readouterr().out
    assert main(["causes", "hooks-removed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["links"][0].startswith("https://github.com/")


@pytest.mark.parametrize("command", ["causes", "reproduce"])
def test_a_name_that_does_not_exist_gets_the_nearest_which_leads_the_list(command, capsys):
    assert main([command, "hooks-remove"]) == 2
    assert "did you mean 'hooks-removed'?" in capsys.readouterr().err
    assert main([command, "hook-removed"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[2].strip() == "hooks-removed" and max(map(len, lines)) < 100


def test_a_cause_that_can_not_be_shown_says_why(capsys):
    assert main(["reproduce", "distributed-loader-conflict"]) == 3
    assert "needs several processes" in capsys.readouterr().err


def test_reproduce_without_a_name_lists_what_there_is(capsys):
    assert main(["reproduce"]) == 0
    text = capsys.readouterr().out
    assert "moved-after-dispatch/cpu\n" in text
    assert "distributed-loader-conflict: not shown here" in text


def test_reproduce_plays_the_steps_and_diagnoses_the_result(capsys):
    assert main(["reproduce", "hooks-removed"]) == 0
    text = capsys.readouterr().out
    assert "[break]" in text and "is not on the expected device meta" in text
    assert "hooks-removed (shown by the state)" in text
    assert "model.layers.4" in text
    assert "Fix:    applied: refill" in text and "Result: proved: equal to the same checkpoint" in text


def test_reproduce_says_what_a_person_does_where_nothing_can_be_applied(capsys):
    assert main(["reproduce", "constructor-on-meta"]) == 0
    text = capsys.readouterr().out
    assert "Fix:    by hand: Compute such numbers" in text and "Result: by hand: nothing to prove" in text


def test_reproduce_as_json_has_steps_and_findings(capsys):
    assert main(["reproduce", "hooks-removed", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [step["step"] for step in said["steps"]] == ["load", "break", "run"]
    assert said["findings"][0]["cause"] == "hooks-removed"
    assert said["fixed"]["verdict"] == "proved" and said["fixed"]["fix"].startswith("applied: refill")


def test_a_mistake_that_does_not_exist_is_wrong_usage(capsys):
    assert main(["service", "--mistake", "none-of-these"]) == 2
    assert "hooks-lost" in capsys.readouterr().err


@pytest.mark.slow
def test_service_serves_until_it_is_interrupted():
    command = [sys.executable, "-m", "diag", "service", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().split()[2].rstrip(":")
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=60) as got:
                assert json.load(got)["status"] in ("loading", "ready")
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["reproduc", "hooks-removed"], "reproduce"), (["cause"], "causes"), (["explian", "a.txt"], "explain")],
)
def test_a_command_that_does_not_exist_is_answered_with_the_nearest(capsys, typed, meant):
    assert main(typed) == 2
    assert f"did you mean `diag {meant}`?" in capsys.readouterr().err
