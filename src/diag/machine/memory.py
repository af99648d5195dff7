"""How much host memory this process may use: the machine's, or less where a cgroup (container, job) sets a limit.

accelerate plans with the machine's memory alone, so inside a container it promises memory that gets the process killed.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_KEYS = {  # limits, use, and the part of the use that the kernel gives back on demand
    "cgroup2": (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}
_KILLS = {"cgroup2": "memory.events", "cgroup": "memory.oom_control"}  # the files that count them


@dataclass(frozen=True)
class HostMemory:
    """Bytes; `limited_by` says whether `free` is what the `machine` or what a `cgroup` leaves."""

    free: int
    total: int
    limited_by: str


def host_memory(root: Path = Path("/")) -> HostMemory:
    """The smaller of what the machine and every enclosing cgroup (v1 and v2) leave, in bytes. Page cache that the
    kernel gives back counts as free. `root` is for looking at another file tree than this one's."""
    machine = _machine()
    limits = [limit for kind, folder in _cgroups(root) if (limit := _limit(folder, kind)) is not None]
    free = min([machine.free, *(cgroup.free for cgroup in limits)])
    total = min([machine.total, *(cgroup.total for cgroup in limits)])
    return HostMemory(free, total, "machine" if free == machine.free else "cgroup")


def _machine() -> HostMemory:
    try:
        import psutil
    except ImportError:
        page = os.sysconf("SC_PAGE_SIZE")
        return HostMemory(os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page, "machine")
    memory = psutil.virtual_memory()
    return HostMemory(memory.available, memory.total, "machine")


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes the kernel has ended for lack of memory: in this cgroup, or, outside one, on the machine. None
    where the kernel does not say. Two readings around a SIGKILL tell whether the kernel sent it."""
    counters = (folder / _KILLS[kind] for kind, folder in _cgroups(root))
    for file in (*counters, root / "proc/vmstat"):
        if found := re.search(r"^oom_kill (\d+)$", _read(file), re.MULTILINE):
            return int(found[1])
    return None


def _cgroups(root: Path) -> Iterator[tuple[str, Path]]:
    """Version and folder of each enclosing cgroup, this process's own first; none where the system has no cgroups."""
    own = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            own["cgroup2"] = path
        elif "memory" in controllers.split(","):
            own["cgroup"] = path
    for kind, inside, mount in _mounts(root):
        if kind not in own:
            continue
        place = PurePosixPath(own[kind])
        below = place.relative_to(inside) if place.is_relative_to(inside) else PurePosixPath()
        for folder in [below, *below.parents]:
            yield kind, root / mount.relative_to("/") / folder


def _mounts(root: Path) -> Iterator[tuple[str, PurePosixPath, PurePosixPath]]:
    """Kind, the cgroup that is mounted, and where."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 5 or len(rest) < 2:
            continue
        kind, options = rest[0], rest[-1]
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            yield kind, PurePosixPath(fields[3]), PurePosixPath(fields[4].replace("\\040", " "))


def _limit(folder: Path, kind: str) -> HostMemory | None:
    limit_files, use_file, cache_key = _KEYS[kind]
    texts = [_read(folder / name).strip() for name in limit_files]
    limits = [int(text) for text in texts if text.isdigit()]
    used = _read(folder / use_file).strip()
    if not limits or not used.isdigit():
        return None
    statistics = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if " " in line)
    held = int(used) - int(statistics.get(cache_key, 0))
    return HostMemory(max(0, min(limits) - max(0, held)), min(limits), "cgroup")


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""
