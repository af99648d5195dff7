"""Reads the package from its source text: its modules, and which of them each one imports.

Nothing is imported. Imports inside functions, under TYPE_CHECKING and given as text all count.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT_MODULES = {"diag", "diag.__main__"}
# A whole string that is a module's name, with or without a function's; and an import in a string that is code.
_MODULE_NAMED = re.compile(r"^(diag(?:\.\w+)+)(?::\w+)?$")
_MODULE_IN_CODE = re.compile(r"(?:from|import|import_module\(['\"]) *(diag\.[\w.]+)")


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
        package = module if self.files[module].stem == "__init__" else module.rpartition(".")[0]
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)

    def _texts(self, module: str) -> Iterator[Import]:
        """Modules of the package that are named by a string, or imported by code in a string; no docstrings."""
        docstrings = _docstrings(self.tree[module])
        for node in ast.walk(self.tree[module]):
            if is_text(node) and id(node) not in docstrings:
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
            if is_text(key) and key.value.islower()
        } - {"causes", "samples"}  # those two are rooms, public as they are


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _beginning(node: ast.AST) -> str:
    """The text that a string, an f-string or a sum begins with; empty where it begins with a value."""
    while isinstance(node, ast.BinOp):
        node = node.left
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if is_text(node) else ""


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
