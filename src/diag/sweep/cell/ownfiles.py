"""The user's own files behind a spec: loader, probe, adapter, saved request. When they change, a row is done again."""

import ast
import contextlib
import hashlib
import importlib.util
import traceback
from collections.abc import Iterable
from pathlib import Path

from diag.proving.savedrequest import is_saved_request
from diag.sweep.isolate.deaths import chain_of
from diag.values.functions import is_function_name
from diag.values.spec import LoadSpec

_DIAG = Path(__file__).parents[2]


def data_fingerprint(spec: LoadSpec) -> str:
    """Of the adapter's files and of a saved request; empty without either."""
    paths: list[Path] = []
    if spec.adapter is not None and Path(spec.adapter).is_dir():
        paths += sorted(path for path in Path(spec.adapter).iterdir() if path.is_file())
    if is_saved_request(spec.probe):
        paths.append(Path(str(spec.probe)))
    return _hash(paths)


def code_fingerprint(spec: LoadSpec) -> str:
    """Of the files of the loader and the probe function, and those they import from beside them; empty without."""
    return _hash(path for module in _own_modules(spec) for path in _with_imports(module))


def where_raised(error: BaseException | None, spec: LoadSpec) -> str:
    """The last line of the user's own files that an error, or what it was raised from, passed: `file.py:12 in f`."""
    roots = {path.parent for module in _own_modules(spec) if (path := _file_of(module)) is not None}
    frames = [frame for one in chain_of(error) for frame in traceback.extract_tb(one.__traceback__)]
    own = [frame for frame in frames if any(_is_own(Path(frame.filename), root) for root in roots)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name}" if own else ""


def _own_modules(spec: LoadSpec) -> list[str]:
    return [name.partition(":")[0] for name in (spec.loader, spec.probe) if name is not None and is_function_name(name)]


def _with_imports(module: str) -> list[Path]:
    """The file of a module, and of what it imports, and so on, as far as that lies in its folder. Runs none of it."""
    start = _file_of(module)
    if start is None:
        return []
    package = module if start.name == "__init__.py" else module.rpartition(".")[0]
    root = start.parents[min(len(package.split(".")) if package else 0, len(start.parents) - 1)]
    found, left = {start}, [(start, package)]
    while left:
        path, inside = left.pop()
        for name in _imported(path, inside):
            place = root.joinpath(*name.split("."))
            files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
            file = next((one for one in files if _is_own(one, root)), None)
            if file is not None and file not in found:
                found.add(file)
                left.append((file, name if file.name == "__init__.py" else name.rpartition(".")[0]))
    return sorted(found)


def _imported(path: Path, package: str) -> set[str]:
    """Dotted names that a file imports, `from a import b` as both `a` and `a.b`; none where it can't be parsed."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level and package else []
            base = [*parts[: len(parts) - node.level + 1], *(node.module or "").split(".")]
            dotted = ".".join(part for part in base if part)
            names |= {dotted, *(f"{dotted}.{alias.name}".strip(".") for alias in node.names)}
    return {name for name in names if name}


def _is_own(path: Path, root: Path) -> bool:
    """Below the user's folder, and nothing that was installed there, nor diag itself."""
    installed = {"site-packages", "dist-packages"}
    if not path.is_file() or not path.is_relative_to(root) or path.is_relative_to(_DIAG):
        return False
    return not installed & {root.name, *path.relative_to(root).parts}


def _file_of(module: str) -> Path | None:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return None if found is None or found.origin is None else Path(found.origin)


def _hash(paths: Iterable[Path]) -> str:
    """Changes with the names, sizes and times of the files that are there; empty where none is."""
    digest = hashlib.sha256()
    found = ""
    for path in paths:
        with contextlib.suppress(OSError):
            digest.update(repr((path.name, path.stat().st_size, path.stat().st_mtime_ns)).encode())
            found = digest.hexdigest()[:16]
    return found
