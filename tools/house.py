"""The rules of the house, and where they are broken: `python tools/house.py [ROOM …]`. Ends with 1 where one is.

Each rule takes a House (house_reader.py) and gives what breaks it; `RULES` names them all. tests/test_house.py asserts
each, and shows that each can fail.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from house_reader import ROOT_MODULES, House, is_text, room_of

ROOT = Path(__file__).resolve().parents[1]
# Lowest first: a room imports only itself and the rooms above it in this list.
ROOMS = "errors values simgpu machine models loading proving estimating diagnosis sweep reproduce views".split()
MAY_BE_ABSENT = {"estimating"}
LOOSE = {"__init__", "__main__", "errors"}
SIMGPU_MAY_USE = ("diag.errors", "diag.values.hardware", "diag.simgpu")
LISTS_OF_EQUALS = {"causes", "quantizers", "scenarios", "rules"}
TESTS_ALONE = {"faults", "helpers", "fixtures", "tools", "browser"}
DEFINED_ONCE = "Step Verdict Answer Run Trace Report Store Failure Task Ended Advice".split()
MOST_FILES, MOST_LINES, MOST_COLUMNS = 12, 22_000, 120
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 300, 40
MOST_ANY, MOST_FMT_SKIP = 90, 20


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
    words = re.split(r"[\s,|]+", node.value.strip()) if is_text(node) else []
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
    """Outside lists of equals the package has at most 22,000 lines; a cause more is not to be paid for elsewhere."""
    files = {module: path for module, path in house.files.items() if not LISTS_OF_EQUALS.intersection(path.parts)}
    total = sum(len(house.text[module].splitlines()) for module in files)
    if total > MOST_LINES:
        yield Broken("whole package", f"has {total} lines outside lists of equals, {MOST_LINES} at most")


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


def main(argv: Sequence[str] | None = None) -> int:
    """`[ROOM …] [--brief]`; 0 where no rule is broken."""
    parser = argparse.ArgumentParser(prog="house", description="Prints what breaks the rules of the house, by room.")
    parser.add_argument("rooms", nargs="*", help="only these rooms")
    parser.add_argument("--brief", action="store_true", help="count per rule and room, no places")
    options = parser.parse_args(argv)
    house = House(ROOT / "src" / "diag", ROOT / "tests")
    broken = broken_by_room(house)
    for room, rules in sorted(broken.items()):
        if not options.rooms or room in options.rooms:
            print(f"\n{room or 'root'} ({_lines(house, room):,} lines)")
            for rule, places in rules.items():
                print(f"  {rule}: {len(places)}")
                if not options.brief:
                    print(*(f"    {place}" for place in places), sep="\n")
    total = sum(len(text.splitlines()) for text in house.text.values())
    count = sum(len(places) for rules in broken.values() for places in rules.values())
    print(f"\n{len(house.files)} files, {total:,} lines; rules are broken in {count} places.")
    return 1 if count else 0


def broken_by_room(house: House) -> dict[str, dict[str, list[Broken]]]:
    """room → rule → the places."""
    found: dict[str, dict[str, list[Broken]]] = defaultdict(lambda: defaultdict(list))
    for name, rule in RULES.items():
        for broken in rule(house):
            found[broken.room][name].append(broken)
    return found


def _lines(house: House, room: str) -> int:
    return sum(len(text.splitlines()) for module, text in house.text.items() if room_of(module) == room)


if __name__ == "__main__":
    sys.exit(main())
