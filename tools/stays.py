"""How often one call goes in and out of the package's files: `python tools/stays.py [--root FOLDER …]`.

A stay is a run of consecutive calls in one file of the package, as `sys.setprofile` reports them. Each chain of calls
counts once, so a loop adds nothing however often it turns. Three calls on the sample `tiny` are counted, each after a
first one that imports and fills caches: `load` onto the CPU, `diagnose` of a healthy model with offloaded layers, and
`fix` of that model with its hooks taken off.

`--root` names checkouts to compare, side by side (this one where none is named). `--most load=22,diagnose=47` ends
with 1 where the last root has more stays. `--trace load` prints the files of that call in order, with the functions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parents[1]
CALLS = ("load", "diagnose", "fix")
Stays = list[tuple[str, list[str]]]  # file, and the functions called during one stay in it


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table or the trace; 1 where `--most` is passed."""
    parser = argparse.ArgumentParser(prog="stays", description="Counts stays in the package's files per call.")
    parser.add_argument("--root", action="append", type=Path, help="a checkout; may be given more than once")
    parser.add_argument("--most", default="", help="load=22,diagnose=47,fix=91: the most that each may have")
    parser.add_argument("--trace", choices=CALLS, help="print the files of this call in order")
    options = parser.parse_args(argv)
    roots = options.root or [HERE]
    counted = {str(root): stays_of(root) for root in roots}
    if options.trace:
        for root, stays in counted.items():
            print(root, *_trace(stays[options.trace]), sep="\n")
        return 0
    print(table(counted))
    last = counted[str(roots[-1])]
    limits = dict(item.split("=") for item in options.most.split(",") if item)
    over = [call for call, most in limits.items() if len(last[call]) > int(most)]
    for call in over:
        print(f"{call} has {len(last[call])} stays, {limits[call]} at most.", file=sys.stderr)
    return 1 if over else 0


def stays_of(root: Path) -> dict[str, Stays]:
    """Each call's stays in the checkout at `root`, counted in a process of its own."""
    environment = {"PYTHONPATH": str(root / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import stays; stays.count()"]
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{root}: the calls could not be counted.\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def table(counted: Mapping[str, dict[str, Stays]]) -> str:
    """One line per call: files and stays in each checkout."""
    lines = [f"{'':10}" + "".join(f"  {Path(root).name:>20}" for root in counted)]
    for call in CALLS:
        cells = (
            f"{len({file for file, _ in stays[call]})} files, {len(stays[call])} stays" for stays in counted.values()
        )
        lines.append(f"{call:10}" + "".join(f"  {cell:>20}" for cell in cells))
    return "\n".join(lines)


def _trace(stays: Stays) -> list[str]:
    return [f"{number:4}  {file:40} {', '.join(dict.fromkeys(names))}" for number, (file, names) in enumerate(stays, 1)]


def count() -> None:
    """Counts in this process and prints the stays as JSON; what `stays_of` starts."""
    from accelerate.hooks import remove_hook_from_module

    import diag

    def offloaded():
        return diag.load(diag.LoadSpec("tiny", device_map="offload")).model

    package = str(Path(diag.__file__).parent) + os.sep
    on_cpu = diag.LoadSpec("tiny", device_map="cpu")
    diag.load(on_cpu)
    found = {"load": recorded(partial(diag.load, on_cpu), package)}
    diag.diagnose(offloaded())
    healthy = offloaded()
    found["diagnose"] = recorded(partial(diag.diagnose, healthy), package)
    for _ in ("warm", "counted"):
        broken = remove_hook_from_module(offloaded(), recurse=True)
        findings = diag.diagnose(broken)
        found["fix"] = recorded(partial(diag.fix, findings), package)
    print(json.dumps(found))


def recorded(call: Callable[[], object], package: str) -> Stays:
    """The stays of one call in files below the folder `package`."""
    chain: list[tuple[str, int]] = []
    seen: set[tuple[tuple[str, int], ...]] = set()
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(package):
            return
        if event == "return":
            if chain:
                chain.pop()
        elif event == "call":
            chain.append((code.co_filename, code.co_firstlineno))
            if tuple(chain) not in seen:
                seen.add(tuple(chain))
                calls.append((code.co_filename.removeprefix(package), code.co_name))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return [(file, [name for _, name in run]) for file, run in itertools.groupby(calls, key=lambda item: item[0])]


if __name__ == "__main__":
    sys.exit(main())
