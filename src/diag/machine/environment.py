"""What this machine is: versions, devices, free memory and who holds it, disks, settings. Redacted.

Works where torch is broken or missing: nothing here imports it, a process of its own is asked.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from diag.machine.folders import cache_folder, hub_cache_folder, nearest_existing
from diag.machine.holders import Holder, gpu_holders
from diag.machine.memory import HostMemory, host_memory
from diag.machine.torch_devices import TorchState, ask_torch
from diag.values.redact import redact, redact_values
from diag.values.units import format_size

LIBRARIES = """torch transformers accelerate bitsandbytes peft diffusers safetensors tokenizers huggingface-hub gguf
    numpy pandas papermill nbconvert ipykernel ipywidgets deepspeed optimum""".split()
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

    def __str__(self) -> str:
        """A line for each fact, with the name of its section before the first."""
        host, torch = self.host, self.torch
        facts = [
            ("system", "python", self.python),
            ("system", "system", self.system),
            ("system", "cpus", str(self.cpus)),
            ("torch", "built for", torch.built_for or "unknown"),
            ("torch", "works", torch.error or "yes"),
            ("memory", "host", f"limited by the {host.limited_by}{_room(host.free, host.total)}"),
            *(("version", name, version) for name, version in self.versions.items()),
            *(("version", name, "absent") for name in self.absent),
            *(("device", d.name, f"{d.model}{_room(d.free_bytes, d.total_bytes)}") for d in torch.devices),
            *(("holder", _who(holder), f"{holder.owner}{_room(None, holder.nbytes)}") for holder in self.holders),
            *(("disk", disk.use, f"{disk.path}{_room(disk.free_bytes, disk.total_bytes)}") for disk in self.disks),
            *(("setting", name, value) for name, value in self.settings.items()),
        ]
        text, before = "", ""
        for section, name, value in facts:
            text += f"{section if section != before else '':<9}{name:<26}{value}\n"
            before = section
        return text.rstrip("\n")


def environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Looks at this machine; 1 to 3 s, most of it for a process that imports torch.

    Changes nothing and never raises for a broken library: `torch.error` says what is wrong with it.
    """
    present, torch = versions(), ask_torch()
    affinity = getattr(os, "sched_getaffinity", None)
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=len(affinity(0)) if affinity else os.cpu_count() or 1,
        versions={name: version for name, version in present.items() if name != "python"},
        absent=tuple(name for name in LIBRARIES if name not in present),
        torch=replace(torch, error=redact(torch.error)),
        host=host_memory(),
        holders=gpu_holders(),
        disks=_disks(),
        settings=settings(os.environ if environ is None else environ),
    )


def versions() -> dict[str, str]:
    """The installed version of python, diag and each library that matters here; absent ones are left out. Read from the
    installation, so a library that can't be imported is still listed."""
    found = {"python": platform.python_version()}
    for name in ("diag", *LIBRARIES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that change how models are loaded, sorted, with secrets and home paths hidden."""
    wanted = {name: value for name, value in sorted(environ.items()) if _SETTINGS.match(name.upper())}
    return redact_values(wanted, environ)


def _disks() -> tuple[Disk, ...]:
    hub, temporary = hub_cache_folder(), Path(tempfile.gettempdir())
    found = []
    for use, place in (("hub cache", hub), ("diag cache", cache_folder()), ("temporary files", temporary)):
        free, total = None, None
        with contextlib.suppress(OSError):
            total, _, free = shutil.disk_usage(nearest_existing(place))
        found.append(Disk(use, redact(str(place)), free, total))
    return tuple(found)


def _who(holder: Holder) -> str:
    return holder.program if holder.pid is None else f"{holder.program} (pid {holder.pid})"


def _room(free: int | None, total: int | None) -> str:
    if total is None:
        return ""
    return f"  ({format_size(total)})" if free is None else f"  ({format_size(free)} free of {format_size(total)})"
