"""The house stands as it is drawn: rooms, imports, sizes, names. Each rule is also shown to fail on a made-up tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from house import DEFINED_ONCE, ROOMS, RULES
from house_reader import House
from places import ROOT, TESTS


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT / "src" / "diag", TESTS)


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(house, rule):
    broken = [str(place) for place in RULES[rule](house)]
    assert broken == [], RULES[rule].__doc__


EMPTY = {f"{room}/__init__.py": "" for room in ROOMS if room not in ("errors", "estimating")}
SOUND = {
    **EMPTY,
    "__init__.py": '_HOME = {"load": "loading.recipe", "LoadSpec": "values.spec"}\nNAMED = "diag.loading.recipe"\n',
    "errors.py": "class DiagError(Exception): ...\n",
    "values/hardware.py": "from diag.errors import DiagError\n",
    "simgpu/kernels.py": "from diag.values.hardware import DiagError\nfrom .devices import refuse\n",
    "simgpu/devices.py": "refuse = None\n",
    "loading/recipe.py": "from diag import errors\nfrom diag.models import hooks\n\ndef load(): ...\n",
    "models/hooks.py": '"""Text may name diag.loading in a docstring."""\nclass Store: ...\nHELP = "see diag.load"\n',
    "diagnosis/causes/hooks_removed.py": 'CAUSE = Cause(id="hooks-removed")\nOTHER = Finding(cause="out-of-memory")\n',
    "diagnosis/causes/out_of_memory.py": 'CAUSE = Cause(id="out-of-memory")\nTITLE = "what hooks-removed is not"\n',
    "diagnosis/causes/unknown.py": 'CAUSE = Cause(id="unknown")\n',
    "reproduce/scenarios/hooks_removed.py": 'CAUSE = "hooks-removed"\n',
    "views/page.py": 'IS_UNKNOWN = "unknown"\nimport_module(f"{__name__}.{name}")\n',
    **{f"diagnosis/causes/cause_{number}.py": "" for number in range(12)},
}
MANY_LINES = "x = 1\n" * 299

# rule -> what each of some files would have to hold to break it, and only it
BREAKS = {
    "rooms_as_drawn": [{"attic/__init__.py": ""}, {"proving/__init__.py": None}],
    "no_loose_files": [{"helpers.py": ""}],
    "files_per_folder": [{f"models/part_{number}.py": "" for number in range(11)}],
    "imports_point_down": [
        {"models/maps.py": "import diag.loading.recipe\n"},
        {"models/maps.py": "def late():\n    from diag.loading import recipe\n"},
        {"models/maps.py": "if TYPE_CHECKING:\n    from ..loading.recipe import load\n"},
        {"views/page.py": "from diag import __version__\n"},
        {"simgpu/devices.py": "from diag.values import text\n", "values/text.py": ""},
        {"simgpu/devices.py": "from diag.machine import memory\n", "machine/memory.py": ""},
    ],
    "no_names_as_text": [
        {"views/page.py": 'HOME = "diag.models.hooks"\n'},
        {"views/page.py": 'HOME = "diag.models.hooks:Store"\n'},
        {"views/page.py": 'CODE = "import sys; from diag.models.hooks import Store"\n'},
        {"views/page.py": 'import_module("diag." + name)\n'},
        {"views/page.py": 'importlib.import_module(f"diag.{name}")\n'},
        {"views/page.py": '__import__(".page", __package__)\n'},
    ],
    "no_circles_of_files": [
        {"models/hooks.py": "from diag.models import maps\n", "models/maps.py": "from diag.models import hooks\n"},
        {"models/hooks.py": "from . import maps\n", "models/maps.py": "def late():\n    from .hooks import Store\n"},
        {
            "diagnosis/causes/__init__.py": "FOUND = list(pkgutil.iter_modules(__path__))\n",
            "diagnosis/causes/cause_1.py": "from diag.diagnosis.causes import FOUND\n",
        },
    ],
    "no_circles_of_folders": [
        {
            "sweep/cell/one.py": "from diag.sweep.results import three\n",
            "sweep/cell/two.py": "",
            "sweep/results/three.py": "",
            "sweep/results/four.py": "from diag.sweep.cell import two\n",
        }
    ],
    "cause_ids_at_home": [
        {"views/page.py": 'if finding.cause == "hooks-removed": ...\n'},
        {"views/page.py": 'CAUSES = "hooks-removed out-of-memory".split()\n'},
        {"views/page.py": 'Finding(cause="hooks-removed")\n'},
        {"diagnosis/causes/out_of_memory.py": 'CAUSE = Cause(id="out-of-memory")\nOTHERS = ("hooks-removed",)\n'},
    ],
    "lines_within_columns": [{"views/page.py": f'"""{"x" * 120}"""\n'}],
    "few_any": [{"views/page.py": "".join(f"a{number}: Any = 1\n" for number in range(91))}],
    "few_fmt_skip": [{"views/page.py": "x = 1  # fmt: skip\n" * 21}],
    "files_and_functions_are_short": [
        {"views/page.py": MANY_LINES + "x = 1\n" * 2},
        {"views/page.py": "def f():\n" + "    x = 1\n" * 40},
    ],
    "one_class_a_name": [{"views/page.py": f"class {name}: ...\n" * 2} for name in DEFINED_ONCE],
    "no_module_named_like_a_function": [{"views/load.py": ""}, {"views/load/__init__.py": ""}],
    "lines_in_all": [{f"sweep/part_{n // 12}/long_{n}.py": MANY_LINES for n in range(84)}],
    "tests_are_the_same_tree": [{"../tests/attic/test_it.py": ""}, {"../tests/models/attic/test_it.py": ""}],
}


def made_up(folder: Path, files: dict[str, str | None]) -> House:
    """A package with these files, and tests that mirror it; a file whose text is None is left out."""
    package, tests = folder / "diag", folder / "tests"
    for name, text in {**files, "../tests/models/test_hooks.py": "", "../tests/helpers/places.py": ""}.items():
        if text is not None:
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return House(package, tests)


def rules_broken(house: House) -> set[str]:
    return {name for name, rule in RULES.items() if list(rule(house))}


def test_a_sound_made_up_tree_breaks_no_rule(tmp_path):
    assert rules_broken(made_up(tmp_path, SOUND)) == set()


@pytest.mark.parametrize(("rule", "files"), [(rule, files) for rule, trees in BREAKS.items() for files in trees])
def test_each_rule_can_fail_and_fails_alone(tmp_path, rule, files):
    assert rules_broken(made_up(tmp_path, {**SOUND, **files})) == {rule}


def test_every_rule_is_shown_to_fail():
    assert set(BREAKS) == set(RULES)


def test_the_architecture_names_files_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").replace("my_", "")
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", text)) - {"diagnosis/causes/cause.py"}
    named -= {"models/quantizers/quantizer.py", "causes/", "scenarios/", "quantizers/"}
    assert len(named) > 20
    assert [
        name for name in sorted(named) if not any((top / name).exists() for top in (ROOT, ROOT / "src" / "diag"))
    ] == []
