"""What this machine is: versions, devices, free memory and who holds it, disks, settings. Redacted.

Works where torch is broken or missing: nothing here imports it, a process of its own is asked.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diag.machine.folders import cache_folder, hub_cache_folder, nearest_existing
from diag.machine.holders import Holder, gpu_holders
from diag.machine.memory import HostMemory, host_memory
from diag.machine.torch_devices import TorchState, ask_torch
from diag.values.redact import redact, redact_values
from diag.values.units import format_size

if TYPE_CHECKING:
    import pandas as pd

LIBRARIES = tuple(
    """torch transformers accelerate bitsandbytes peft diffusers safetensors tokenizers huggingface-hub gguf numpy
    pandas papermill nbconvert ipykernel ipywidgets deepspeed optimum""".split()
)
_SETTINGS = re.compile(
    r"(HF_|HUGGING|TRANSFORMERS_|DIFFUSERS_|ACCELERATE_|PYTORCH_|TORCH|CUDA|NVIDIA_|HIP_|ROCR_|HSA_|ONEAPI_|ZE_"
    r"|BNB_|BITSANDBYTES_|OMP_|MKL_|OPENBLAS_|FSDP_|DEEPSPEED_|SAFETENSORS_|TOKENIZERS_|XDG_CACHE|DIAG_|SLURM_MEM)"
    r"|(DEVICE_MAP|QUANTIZE|MAX_MEMORY|LD_LIBRARY_PATH|PYTHONPATH|TMPDIR|WORLD_SIZE|LOCAL_RANK|RANK)\Z|.*_PROXY\Z"
)


@dataclass(frozen=True)
class Disk:
    """Room in bytes where `use` writes; `path` is redacted, sizes are None where it can't be looked at."""

    use: str
    path: str
    free_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True)
class Environment:
    """This machine at one moment. Sizes in bytes; no secret and no home path is in it."""

    python: str
    system: str
    cpus: int
    versions: Mapping[str, str]
    absent: tuple[str, ...]
    torch: TorchState
    host: HostMemory
    holders: tuple[Holder, ...]
    disks: tuple[Disk, ...]
    settings: Mapping[str, str]

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """One row per fact: section, name, value, free_bytes, total_bytes (bytes, NA where a fact has no size)."""
        import pandas as pd

        frame = pd.DataFrame(self._rows(), columns=["section", "name", "value", "free_bytes", "total_bytes"])
        return frame.astype({"free_bytes": "Int64", "total_bytes": "Int64"})

    def _rows(self) -> list[tuple[str, str, str, int | None, int | None]]:
        torch, host = self.torch, self.host
        rows: list[tuple[str, str, str, int | None, int | None]] = [
            ("system", "python", self.python, None, None),
            ("system", "system", self.system, None, None),
            ("system", "cpus", str(self.cpus), None, None),
            ("torch", "built for", torch.built_for or "unknown", None, None),
            ("torch", "works", torch.error or "yes", None, None),
            ("memory", "host", f"limited by the {host.limited_by}", host.free, host.total),
        ]
        rows += [("version", name, version, None, None) for name, version in self.versions.items()]
        rows += [("version", name, "absent", None, None) for name in self.absent]
        rows += [("device", d.name, d.model, d.free_bytes, d.total_bytes) for d in torch.devices]
        rows += [("holder", _who(h), h.owner, None, h.nbytes) for h in self.holders]
        rows += [("disk", disk.use, disk.path, disk.free_bytes, disk.total_bytes) for disk in self.disks]
        rows += [("setting", name, value, None, None) for name, value in self.settings.items()]
        return rows

    def __str__(self) -> str:
        lines, last = [], ""
        for section, name, value, free, total in self._rows():
            size = "" if total is None else f"  ({_room(free, total)})"
            lines.append(f"{section if section != last else '':<9}{name:<26}{value}{size}")
            last = section
        return "\n".join(lines)


def environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Looks at this machine; 1 to 3 s, most of it for a process that imports torch.

    Changes nothing and never raises for a broken library: `torch.error` says what is wrong with it.
    """
    present = versions()
    torch = ask_torch()
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=_usable_cpus(),
        versions={name: version for name, version in present.items() if name != "python"},
        absent=tuple(name for name in LIBRARIES if name not in present),
        torch=TorchState(torch.version, torch.built_for, torch.devices, redact(torch.error)),
        host=host_memory(),
        holders=gpu_holders(),
        disks=_disks(),
        settings=settings(os.environ if environ is None else environ),
    )


def versions() -> dict[str, str]:
    """The installed version of python, diag and each library that matters here; absent ones are left out.

    Read from the installation, so a library that can't be imported is still listed.
    """
    found = {"python": platform.python_version()}
    for name in ("diag", *LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that change how models are loaded, sorted, with secrets and home paths hidden."""
    wanted = {name: value for name, value in sorted(environ.items()) if _SETTINGS.match(name.upper())}
    return redact_values(wanted, environ)


def _usable_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _disks() -> tuple[Disk, ...]:
    places = {
        "hub cache": hub_cache_folder(),
        "diag cache": cache_folder(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    return tuple(_disk(use, place) for use, place in places.items())


def _disk(use: str, place: Path) -> Disk:
    shown = redact(str(place))
    try:
        usage = shutil.disk_usage(nearest_existing(place))
    except OSError:
        return Disk(use, shown, None, None)
    return Disk(use, shown, usage.free, usage.total)


def _who(holder: Holder) -> str:
    return holder.program if holder.pid is None else f"{holder.program} (pid {holder.pid})"


def _room(free: int | None, total: int) -> str:
    return format_size(total) if free is None else f"{format_size(free)} free of {format_size(total)}"
