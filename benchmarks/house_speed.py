"""What the move into rooms costs in time: an older checkout and this one, side by side in one run.

    python benchmarks/house_speed.py [--before FOLDER] [--rounds 5] [--only TEXT]

Each number is the median of several fresh processes; the two checkouts take turns, so that other work on the machine
meets both. Without `--before`, commit 38ea98d is checked out into a temporary folder. Exits with 1 where this checkout
needs more than 1.10 times as long and 10 ms more than the older one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "38ea98d"
MOST_RATIO, MOST_SECONDS = 1.10, 0.010
TENSORS = 50_000
ERROR = "RuntimeError: Tensor on device cpu is not on the expected device meta!"


def import_diag() -> float:
    return seconds(lambda: __import__("diag"))


def explain_a_text() -> float:
    command = [sys.executable, "-m", "diag", "explain", "-"]
    return seconds(lambda: subprocess.run(command, input=ERROR, text=True, capture_output=True, check=False))


def diagnose_many() -> float:
    return of_a_model("diagnose", many_tensors)


def placement_many() -> float:
    return of_a_model("placement", many_tensors)


def diagnose_tiny() -> float:
    return of_a_model("diagnose", tiny)


def placement_tiny() -> float:
    return of_a_model("placement", tiny)


def of_a_model(name: str, make: Callable[[], object]) -> float:
    """One public call on a model; a call on a small one goes first and pays for imports and caches."""
    import diag

    call = getattr(diag, name)
    call(tiny())
    model = make()
    return seconds(lambda: call(model))


def tiny() -> object:
    import diag

    return diag.load(diag.LoadSpec("tiny", device_map="offload")).model


def many_tensors() -> object:
    """Layers of four tensors each, as many as make 50,000."""
    from torch import nn

    layers = (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(TENSORS // 4))
    return nn.Sequential(*layers)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


CASES = {
    "import diag": import_diag,
    "diag explain, one text": explain_a_text,
    f"diagnose, {TENSORS:,} tensors": diagnose_many,
    f"placement, {TENSORS:,} tensors": placement_many,
    "diagnose, tiny offloaded": diagnose_tiny,
    "placement, tiny offloaded": placement_tiny,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help=f"an older checkout (made from {BEFORE} where left out)")
    parser.add_argument("--only", default="", help="only the numbers whose name holds this text")
    parser.add_argument("--rounds", type=int, default=5, help="processes per number (default 5)")
    options = parser.parse_args()
    with checkout(options.before) as before:
        print(f"{'seconds, medians':28}{'before':>10}{'now':>10}{'ratio':>8}")
        slower = [name for name in CASES if options.only in name and not compare(name, before, options.rounds)]
    if slower:
        print(f"Slower than before: {', '.join(slower)}.")
    return 1 if slower else 0


def compare(name: str, before: Path, rounds: int) -> bool:
    """Prints one line; whether this checkout is about as fast as the older one."""
    times: dict[Path, list[float]] = {before: [], ROOT: []}
    for root in times:  # compiles the files, which a person pays for once
        in_a_process(name, root)
    for number in range(rounds):
        for root in sorted(times, reverse=bool(number % 2)):
            times[root].append(in_a_process(name, root))
    then, now = statistics.median(times[before]), statistics.median(times[ROOT])
    print(f"{name:28}{then:10.4f}{now:10.4f}{now / then:8.2f}", flush=True)
    return now <= then * MOST_RATIO or now - then < MOST_SECONDS


def in_a_process(name: str, root: Path) -> float:
    """The seconds that one case takes in a fresh process that imports the checkout at `root`."""
    code = f"import house_speed; print(house_speed.CASES[{name!r}]())"
    paths = os.pathsep.join([str(root / "src"), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def checkout(folder: Path | None) -> Iterator[Path]:
    """The older checkout: the folder that was named, or a worktree that goes again."""
    if folder is not None:
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(made), BEFORE], check=True)
        try:
            yield made
        finally:
            subprocess.run([*git, "remove", "--force", str(made)], check=True)


if __name__ == "__main__":
    sys.exit(main())
