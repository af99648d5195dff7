"""Reads the package from its source text: who imports whom, and which rules of the house are broken where.

Nothing is imported. Imports inside functions, under TYPE_CHECKING and given as text all count. `RULES` names every
rule; each takes a House and returns what breaks it. `python tools/house.py` prints them by room.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Lowest first: a room imports only itself and the rooms above it in this list.
ROOMS = "errors values simgpu machine models loading proving estimating diagnosis sweep reproduce views".split()
MAY_BE_ABSENT = {"estimating"}
LOOSE = {"__init__", "__main__", "errors"}
SIMGPU_MAY_USE = ("diag.errors", "diag.values.hardware", "diag.simgpu")
LISTS_OF_EQUALS = {"causes", "quantizers", "scenarios", "rules"}
TESTS_ALONE = {"faults", "helpers", "fixtures", "tools", "browser"}
DEFINED_ONCE = "Step Verdict Answer Run Trace Report Store Failure Task Ended Advice".split()
MOST_FILES, MOST_LINES, MOST_COLUMNS = 12, 25_000, 120
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 300, 40
MOST_ANY, MOST_FMT_SKIP = 90, 20
ROOT_MODULES = {"diag", "diag.__main__"}
# A whole string that is a module's name, with or without a function's; and an import in a string that is code.
_MODULE_NAMED = re.compile(r"^(diag(?:\.\w+)+)(?::\w+)?$")
_MODULE_IN_CODE = re.compile(r"(?:from|import|import_module\(['\"]) *(diag\.[\w.]+)")


@dataclass(frozen=True)
class Broken:
    """One place where a rule is broken: `where` is a path below the package (or tests/…), with its line."""

    where: str
    what: str

    @property
    def room(self) -> str:
        return self.where.partition("/")[0].partition(".py")[0]

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Import:
    """One module of the package that another one names, by an import statement or as text."""

    source: str
    target: str
    line: int
    as_text: bool = False


class House:
    """The source files of one package, parsed, and the tests beside it.

    `package` is the folder `diag`; `tests` may be absent. Folders without Python files count for nothing.
    """

    def __init__(self, package: Path, tests: Path | None = None) -> None:
        self.package, self.tests = package, tests
        self.files = {self._module(path): path for path in sorted(package.rglob("*.py"))}
        self.text = {module: path.read_text(encoding="utf-8") for module, path in self.files.items()}
        self.tree = {module: ast.parse(text) for module, text in self.text.items()}

    def _module(self, path: Path) -> str:
        parts = path.relative_to(self.package).with_suffix("").parts
        return ".".join(("diag", *(part for part in parts if part != "__init__")))

    def where(self, module: str, line: int | None = None) -> str:
        """The file of a module below the package, with a line where one is given."""
        path = self.files[module].relative_to(self.package).as_posix()
        return path if line is None else f"{path}:{line}"

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of one module of the package by another."""
        ways = (self._statements, self._texts, self._found_by_folder)
        found = [item for module in self.files for way in ways for item in way(module)]
        return tuple(item for item in dict.fromkeys(found) if item.source != item.target)

    def _statements(self, module: str) -> Iterator[Import]:
        for node in ast.walk(self.tree[module]):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(module, node)
                names = [f"{base}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if target := self._longest_module(name):
                    yield Import(module, target, node.lineno)

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        """What `from …x import` means in this module, dots at its beginning included."""
        if not node.level:
            return node.module or ""
        is_room = self.files[module].stem == "__init__"
        parts = module.split(".")[: None if is_room and node.level == 1 else (1 if is_room else 0) - node.level]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def _texts(self, module: str) -> Iterator[Import]:
        """Modules of the package that are named by a string, or imported by code in a string; no docstrings."""
        docstrings = _docstrings(self.tree[module])
        for node in ast.walk(self.tree[module]):
            if _is_text(node) and id(node) not in docstrings:
                for name in _MODULE_NAMED.findall(node.value) + _MODULE_IN_CODE.findall(node.value):
                    if target := self._longest_module(name.strip(".")):
                        yield Import(module, target, node.lineno, as_text=True)
            elif isinstance(node, ast.Call) and _imports_by_name(node):
                yield Import(module, "diag", node.lineno, as_text=True)

    def _found_by_folder(self, module: str) -> Iterator[Import]:
        """What a registry imports: a folder's __init__ that lists the folder with pkgutil imports each of its files."""
        if "pkgutil.iter_modules(" in self.text[module] and self.files[module].stem == "__init__":
            for other in self.files:
                if other.rpartition(".")[0] == module:
                    yield Import(module, other, 1)

    def _longest_module(self, name: str) -> str | None:
        """The module that `diag.a.b.name` comes from; None for what is not of the package."""
        parts = name.split(".")
        ends = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        return next((module for module in ends if module in self.files), None)

    @cached_property
    def cause_ids(self) -> dict[str, str]:
        """Each cause's id and the module whose record defines it: `Cause(id=…)` below diagnosis/causes."""
        return {
            keyword.value.value: module
            for module in self.files
            if module.startswith("diag.diagnosis.causes")
            for node in ast.walk(self.tree[module])
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Cause"
            for keyword in node.keywords
            if keyword.arg == "id" and isinstance(keyword.value, ast.Constant)
        }

    @cached_property
    def public_functions(self) -> set[str]:
        """The lower-case names that the root's tables of public names map to a home."""
        return {
            key.value
            for node in ast.walk(self.tree.get("diag", ast.parse("")))
            if isinstance(node, ast.Dict)
            for key in node.keys
            if _is_text(key) and key.value.islower()
        } - {"causes", "samples"}  # those two are rooms, public as they are


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _beginning(node: ast.AST) -> str:
    """The text that a string, an f-string or a sum begins with; empty where it begins with a value."""
    while isinstance(node, ast.BinOp):
        node = node.left
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if _is_text(node) else ""


def _imports_by_name(call: ast.Call) -> bool:
    """`import_module("diag.…")` and `__import__(".…")`, whether the name is complete or put together."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    texts = (_beginning(argument) for argument in call.args)
    return name in ("import_module", "__import__") and any(text.startswith(("diag.", ".")) for text in texts)


def room_of(module: str) -> str:
    """`models` for `diag.models.hooks`; the root's own files are `errors` or `` (above everything)."""
    name = module.split(".")[1] if "." in module else ""
    return "" if name == "__main__" else name


def _docstrings(tree: ast.Module) -> set[int]:
    """The id() of each node that is a docstring."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, holders) and node.body]
    return {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}


def rooms_as_drawn(house: House) -> Iterator[Broken]:
    """The folders at the root are the rooms of the plan, all of them and no others."""
    found = {room_of(module) for module in house.files} - LOOSE - {""}
    folders = {name for name in found if (house.package / name).is_dir()}
    for name in sorted(folders - set(ROOMS)):
        yield Broken(f"{name}/", "is no room of the plan")
    for name in sorted(set(ROOMS) - LOOSE - MAY_BE_ABSENT - folders):
        yield Broken(f"{name}/", "is a room of the plan and is absent")


def no_loose_files(house: House) -> Iterator[Broken]:
    """At the root stand only __init__, __main__ and errors."""
    for path in sorted(house.package.glob("*.py")):
        if path.stem not in LOOSE:
            yield Broken(path.name, "stands loose at the root of the package")


def files_per_folder(house: House) -> Iterator[Broken]:
    """A folder holds at most twelve files; lists of equals may be longer."""
    folders = Counter(path.parent.relative_to(house.package) for path in house.files.values())
    for folder, count in sorted(folders.items()):
        if count > MOST_FILES and folder.name not in LISTS_OF_EQUALS:
            yield Broken(f"{folder.as_posix()}/", f"holds {count} files, {MOST_FILES} at most")


def imports_point_down(house: House) -> Iterator[Broken]:
    """A module imports its own room and the rooms below; simgpu knows of diag only errors and values.hardware."""
    floors = {room: floor for floor, room in enumerate(ROOMS)}
    for item in house.imports:
        source, target = room_of(item.source), room_of(item.target)
        if source == "simgpu" and not item.target.startswith(SIMGPU_MAY_USE):
            yield Broken(house.where(item.source, item.line), f"simgpu imports {item.target}")
        elif (
            source
            and not (item.as_text and item.target == "diag")
            and floors.get(target, len(ROOMS)) > floors.get(source, len(ROOMS))
        ):
            yield Broken(house.where(item.source, item.line), f"imports {item.target}, which is above")


def no_names_as_text(house: House) -> Iterator[Broken]:
    """Only the root's __init__ and __main__ name modules of the package as text."""
    for item in house.imports:
        if item.as_text and item.source not in ROOT_MODULES:
            yield Broken(house.where(item.source, item.line), f"names {item.target} as text")


def no_circles_of_files(house: House) -> Iterator[Broken]:
    """No module imports, in however many steps, a module that imports it."""
    graph: dict[str, set[str]] = defaultdict(set)
    for item in house.imports:
        if item.source not in ROOT_MODULES:
            graph[item.source].add(item.target)
    for circle in _circles(graph):
        yield Broken(house.where(circle[0]), f"is in a circle of imports: {', '.join(circle)}")


def no_circles_of_folders(house: House) -> Iterator[Broken]:
    """Two folders that stand beside each other in one room don't import each other, in however many steps."""
    graph: dict[str, set[str]] = defaultdict(set)
    for item in house.imports:
        source, target = _part_ways(_folder(house, item.source), _folder(house, item.target))
        if "/" in source:  # between rooms, imports_point_down says more
            graph[source].add(target)
    for circle in _circles(graph):
        yield Broken(f"{circle[0]}/", f"is in a circle of folders: {', '.join(circle)}")


def _folder(house: House, module: str) -> tuple[str, ...]:
    return house.files[module].parent.relative_to(house.package).parts


def _part_ways(source: tuple[str, ...], target: tuple[str, ...]) -> tuple[str, str]:
    """The two sibling folders in which two folders lie; empty where one lies inside the other."""
    for depth, (one, other) in enumerate(zip(source, target), start=1):
        if one != other:
            return "/".join(source[:depth]), "/".join(target[:depth])
    return "", ""


def _circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The groups of nodes that reach each other, sorted."""
    reached = {node: _reached(graph, node) for node in list(graph)}
    groups = {
        tuple(sorted(other for other in reached[node] if node in reached.get(other, ())))
        for node in reached
        if node in reached[node]
    }
    return sorted(groups)


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph.get(node, ())
    return seen


def cause_ids_at_home(house: House) -> Iterator[Broken]:
    """A cause's id as a literal stands in its own file, after `cause=` in other causes' files, and in scenarios."""
    for module, tree in house.tree.items():
        if module.startswith("diag.reproduce.scenarios."):
            continue
        may_name = set()
        if module.startswith("diag.diagnosis.causes."):
            keywords = (item for node in ast.walk(tree) if isinstance(node, ast.Call) for item in node.keywords)
            may_name = {id(item.value) for item in keywords if item.arg == "cause"}
        own = "-".join(module.rpartition(".")[2].split("_"))
        for node in ast.walk(tree):
            named = _causes_named(house, node) if id(node) not in may_name else []
            for cause in named:
                if cause != own or house.cause_ids[own] != module:
                    yield Broken(house.where(module, node.lineno), f"names the cause {cause!r}")


def _causes_named(house: House, node: ast.AST) -> list[str]:
    """The ids in a string that holds nothing but ids; `unknown` left out."""
    words = re.split(r"[\s,|]+", node.value.strip()) if _is_text(node) else []
    return [word for word in words if word != "unknown"] if words and set(words) <= set(house.cause_ids) else []


def lines_within_columns(house: House) -> Iterator[Broken]:
    """No line is longer than 120 characters."""
    for module, text in house.text.items():
        for number, line in enumerate(text.splitlines(), start=1):
            if len(line) > MOST_COLUMNS:
                yield Broken(house.where(module, number), f"has {len(line)} characters")


def few_any(house: House) -> Iterator[Broken]:
    """`: Any` stands at most 90 times in the package."""
    return _at_most(house, MOST_ANY, re.compile(r": Any\b"), "`: Any`")


def few_fmt_skip(house: House) -> Iterator[Broken]:
    """`# fmt: skip` stands at most 20 times in the package."""
    return _at_most(house, MOST_FMT_SKIP, re.compile(r"# fmt: (skip|off)"), "`# fmt: skip`")


def _at_most(house: House, most: int, pattern: re.Pattern[str], name: str) -> Iterator[Broken]:
    """One entry for each file that adds to a total over its limit."""
    counts = {module: len(pattern.findall(text)) for module, text in house.text.items()}
    total = sum(counts.values())
    if total > most:
        for module, count in counts.items():
            if count:
                yield Broken(house.where(module), f"{count} of {total} {name}, {most} at most in all")


def files_and_functions_are_short(house: House) -> Iterator[Broken]:
    """A file has at most 300 lines, a function at most 40."""
    for module, tree in house.tree.items():
        lines = len(house.text[module].splitlines())
        if lines > MOST_LINES_OF_A_FILE:
            yield Broken(house.where(module), f"has {lines} lines, {MOST_LINES_OF_A_FILE} at most")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    what = f"{node.name} has {length} lines, {MOST_LINES_OF_A_FUNCTION} at most"
                    yield Broken(house.where(module, node.lineno), what)


def one_class_a_name(house: House) -> Iterator[Broken]:
    """Names that once stood for several things are defined at most once."""
    defined: dict[str, list[str]] = defaultdict(list)
    for module, tree in house.tree.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in DEFINED_ONCE:
                defined[node.name].append(house.where(module, node.lineno))
    for name, places in sorted(defined.items()):
        if len(places) > 1:
            for place in places:
                yield Broken(place, f"class {name} is defined {len(places)} times")


def no_module_named_like_a_function(house: House) -> Iterator[Broken]:
    """`diag.load` is a function: no module or folder carries its name."""
    for module in house.files:
        if module.rpartition(".")[2] in house.public_functions:
            yield Broken(house.where(module), "carries the name of a public function")


def lines_in_all(house: House) -> Iterator[Broken]:
    """The package has at most 25,000 lines."""
    total = sum(len(text.splitlines()) for text in house.text.values())
    if total > MOST_LINES:
        yield Broken("whole package", f"has {total} lines, {MOST_LINES} at most")


def tests_are_the_same_tree(house: House) -> Iterator[Broken]:
    """Each folder of tests/ is a folder of the package, but for helpers, fixtures and the like."""
    for path in sorted({path.parent for path in (house.tests or Path("absent")).rglob("*.py")}):
        folder = path.relative_to(house.tests)
        if folder.parts and folder.parts[0] not in TESTS_ALONE and not (house.package / folder).is_dir():
            yield Broken(f"tests/{folder.as_posix()}/", "has no folder of that name in the package")


RULES: dict[str, Callable[[House], Iterable[Broken]]] = {
    rule.__name__: rule
    for rule in (
        rooms_as_drawn,
        no_loose_files,
        files_per_folder,
        imports_point_down,
        no_names_as_text,
        no_circles_of_files,
        no_circles_of_folders,
        cause_ids_at_home,
        lines_within_columns,
        few_any,
        few_fmt_skip,
        files_and_functions_are_short,
        one_class_a_name,
        no_module_named_like_a_function,
        lines_in_all,
        tests_are_the_same_tree,
    )
}
