"""Was the memory taken by others? Turns a refusal or an out-of-memory into the cause behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from diag.diagnosis.making import make
from diag.values.finding import Finding
from diag.values.spec import LoadSpec

_SYMPTOMS = ("quantized-offload-refused", "out-of-memory", "offload-notice")
_SHARE = 0.1  # of a device: what others hold beyond this counts
_SIZE = {"int8": 0.55, "nf4": 0.32, "fp4": 0.32, "nf4-double": 0.3}  # of a checkpoint in 16 bits, roughly


def with_holders(found: list[Finding], spec: LoadSpec | None) -> list[Finding]:
    """Puts `memory-already-taken` first where others hold what the model would have fitted into."""
    if not found or found[0].cause not in _SYMPTOMS or any(f.cause == "memory-already-taken" for f in found):
        return found
    held = _held_by_others(spec)
    if not held or not _would_fit(spec, held):
        return found
    because = tuple(f"{d}: others hold {_mib(other)} of {_mib(total)}." for d, other, total in held)
    first = make("memory-already-taken", "likely", because=(*because, "Without them the model would fit."))
    return [replace(first, severity=found[0].severity), *found]


def _held_by_others(spec: LoadSpec | None) -> list[tuple[str, int, int]]:
    """(device, bytes that others hold, its size) for every device where that is much."""
    if spec is not None and spec.hardware is not None:
        pairs = enumerate(zip(spec.hardware.taken, spec.hardware.gpus))
        return [(f"simgpu:{n}", held, size) for n, (held, size) in pairs if held > _SHARE * size]
    return [one for one in _real_devices() if one[1] > _SHARE * one[2]]


def _real_devices() -> list[tuple[str, int, int]]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        found.append((f"cuda:{n}", max(0, total - free - torch.cuda.memory_reserved(n)), total))
    return found


def _would_fit(spec: LoadSpec | None, held: Sequence[tuple[str, int, int]]) -> bool:
    needed = _needed(spec)
    if needed is None:
        return True
    sizes = spec.hardware.gpus if spec is not None and spec.hardware is not None else [total for _, _, total in held]
    return needed <= sum(sizes)


def _needed(spec: LoadSpec | None) -> int | None:
    if spec is None:
        return None
    try:
        from diag.loading.checkpoint.files import find_checkpoint

        nbytes = find_checkpoint(spec.model).nbytes
    except Exception:  # not on this machine: then nothing is claimed about its size
        return None
    return int(nbytes * _SIZE.get(spec.quantization, 1.0))


def _mib(nbytes: Any) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"
