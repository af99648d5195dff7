"""The command line: quick to start, clear when it is used wrongly, the same as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from diag.views.cli.main import main

COMMANDS = dict.fromkeys(("report", "matrix", "placement", "env"), "4 the run died")
COMMANDS |= dict.fromkeys(("diff", "explain", "causes", "reproduce", "service"), "exit codes: 0 ")


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "diag", *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("command", "code"), COMMANDS.items())
def test_help_shows_an_example_and_the_exit_codes(command, code, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "example: " in text and f"diag {command}" in text and code in text
    assert "--json" in text or command == "service"


def test_help_and_wrong_usage_load_no_heavy_library():
    heavy = "{'torch', 'transformers', 'pandas', 'papermill', 'nbconvert', 'numpy'}"
    code = (
        "import sys, contextlib\nfrom diag.views.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        f"main(['nonsense'])\nprint({heavy} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert said.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["matrix"], "one model is needed"),
        (["matrix", "tiny", "--model", "other"], "two were given"),
        (["matrix", "tiny", "--device-map", "autoo"], "did you mean 'auto'?"),
        (["matrix", "tiny", "--quantization", "5bit"], "valid are: none, int8"),
        (["matrix", "tiny", "--hardware", "2xlarge"], "2xlarge"),
        (["matrix", "tiny", "--timeout", "soon"], "is not a time"),
        (["report", "tiny", "-p", "rows"], "NAME=VALUE"),
        (["report", "tiny", "-p", "rowz=1"], "has no parameter 'rowz'"),
        (["placement", "tiny", "--max-memory", "{"], "not valid JSON"),
        (["placement", "tiny", "--by", "colour"], "invalid choice: 'colour'"),
    ],
)
def test_wrong_usage_is_one_block_and_exit_code_2(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("diag: ")
    assert said in printed.err and "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_json_where_json_was_asked_for(capsys):
    assert main(["matrix", "tiny", "--device-map", "autoo", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == 2
    assert said["error"]["next_step"] == "did you mean 'auto'?"


def test_ansi_codes_in_an_argument_do_not_reach_the_terminal(capsys):
    assert main(["placement", "tiny", "--device-map", "\x1b[31mred"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_is_not_there_could_not_be_judged(capsys):
    assert main(["placement", "./no-such-folder"]) == 3
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_matrix_prints_the_overview_and_what_to_use(tmp_path):
    results = str(tmp_path / "r.sqlite")
    said = run("matrix", "tiny", "--device-map", "auto, disk", "--quantization", "none,nf4", "--results", results)
    assert said.returncode == 0
    assert "– disk · nf4: refused." in said.stdout
    assert "3 of 4 combinations of tiny work on this machine" in said.stdout
    assert "4/4 " in said.stderr
    stored = run("placement", "tiny", "--device-map", "disk", "--results", results, "--by", "device", "--json")
    assert {row["backing"] for row in json.loads(stored.stdout)} == {"resident", "offloaded"}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_matrix_as_json_is_every_row_and_nothing_else(tmp_path):
    maps = '{"":"cpu"}'
    grid = ["--device-map", maps, "--quantization", "none", "--results", str(tmp_path / "r")]
    said = run("matrix", "tiny", *grid, "--json")
    (row,) = json.loads(said.stdout)
    assert (row["device_map"], row["status"]) == (maps, "ok")


@pytest.mark.slow
def test_placement_shows_the_strip_and_one_row_for_each_layer():
    said = run("placement", "tiny", "--device-map", "disk")
    assert said.returncode == 0
    assert "Offloaded to disk: layers 0–" in said.stdout and "model.layers.0" in said.stdout


@pytest.mark.slow
def test_env_works_where_torch_can_not_be_imported(tmp_path, monkeypatch):
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = run("env")
    assert said.returncode == 0
    assert "libtorch_cpu.so" in said.stdout
    facts = json.loads(run("env", "--json").stdout)
    assert "libtorch_cpu.so" in facts["torch"]["error"]


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m diag placement tiny --by tensor | head -1; echo ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert said.stdout.splitlines()[-1] == "0"
    assert "Traceback" not in said.stderr


def test_parameters_written_as_papermill_writes_them_are_explained(capsys):
    """It once said that two models were given."""
    assert main(["report", "--model", "tiny", "-p", "rows", "20"]) == 2
    said = capsys.readouterr().err
    assert "-p 'rows' is not a parameter" in said and "NAME=VALUE" in said and "-p rows=VALUE" in said
