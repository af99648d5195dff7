"""memory-already-taken: the map spilled because something else held the memory."""

import re
from dataclasses import dataclass, replace

from diag.diagnosis.cause import ON_CPU_OR_DISK, OUT_OF_MEMORY, Cause, Fixes, Point, Points, texts_of
from diag.diagnosis.evidence import Evidence, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding
from diag.values.spec import LoadSpec
from diag.values.units import format_size

CAUSE = Cause(
    id="memory-already-taken",
    rank=260,
    title="The map spilled because something else held the memory",
    shown_on="simulated",
    explanation="'auto' plans with the memory that is free at that moment. Another worker, another user, a notebook "
    "that still holds an earlier model, or a container limit that accelerate does not see makes it smaller than the "
    "card, and layers are offloaded to the CPU or to disk although the model would fit.",
    proves=("The device's total would hold the model, its free memory does not, and others hold the rest.",),
    rules_out=("The model is larger than the whole device.",),
    check="What does nvidia-smi show beside this process, and was a model loaded earlier in this kernel?",
    fix="Free the memory: stop the holder, delete the earlier model and restart the kernel; then load again. "
    "max_memory= says how much may be used.",
    fix_kind="environment",
    avoid=("shrinking the dtype until it fits: the other process may be there again at the next load.",),
    seen_as=(ON_CPU_OR_DISK, OUT_OF_MEMORY),
    texts=texts_of(r"""
        less memory was free at startup than the engine was told to take: something else holds the rest
            10: free memory on device (?:\S+ )?\([\d.]+/[\d.]+ ?gib\) on startup is less than desired
        an earlier model of this process holds the memory
            10: tensors of an earlier load are still alive
    """),
    is_act=True,
)


_SHARE = 0.1  # of a device: what others hold beyond this counts
_SIZE = {"int8": 0.55, "nf4": 0.32, "fp4": 0.32, "nf4-double": 0.3}  # of a checkpoint in 16 bits, roughly
_AMOUNT = r"(\d+(?:\.\d+)?)\s*(gib|mib|kib|gb|mb)"
_GIB = {"gib": 1.0, "mib": 1 / 1024, "kib": 1 / 1024**2, "gb": 1.0, "mb": 1 / 1000}


@dataclass(frozen=True)
class _Held:
    """What others hold of one device, in bytes."""

    device: str
    nbytes: int
    total: int


def from_text(trace: Trace) -> Points:
    if says := _said_to_be_held(trace.report.text):
        yield Point(1, says, cause="out-of-memory")


def behind(found: Finding, e: Evidence) -> Finding | None:
    """Others hold what the model would have fitted into."""
    held = _held_by_others(e.spec) if e.memory_ran_short else []
    if not held or not _would_fit(e.spec, held):
        return None
    because = (f"{one.device}: others hold {format_size(one.nbytes)} of {format_size(one.total)}." for one in held)
    made = CAUSE.finding("likely", because=(*because, "Without them the model would fit."))
    return replace(made, severity=found.severity)


def _said_to_be_held(text: str) -> str:
    """Whether an out-of-memory text shows that others hold a large part of the device; the sentence, or nothing.

    >>> _said_to_be_held("CUDA out of memory. GPU 0 has a total capacity of 23.64 GiB of which 10.00 MiB is free. "
    ...                  "Including non-PyTorch memory, this process has 3.00 GiB memory in use.")
    'others hold about 20.6 of 23.6 GiB of the device, this process 3.0'
    """
    flat = re.sub(r"\s+", " ", text).lower()
    total = re.search(rf"total capac\w+ (?:of )?{_AMOUNT}", flat)
    free = re.search(rf"of which {_AMOUNT} is free|{_AMOUNT} free", flat)
    mine = re.search(rf"this process has {_AMOUNT}|{_AMOUNT} already allocated|allocated memory {_AMOUNT}", flat)
    if not (total and free and mine):
        return ""
    amounts = [[group for group in match.groups() if group] for match in (total, free, mine)]
    size, left, own = (float(number) * _GIB[unit] for number, unit in amounts)
    others = size - left - own
    if others <= 0.3 * size:
        return ""
    return f"others hold about {others:.1f} of {size:.1f} GiB of the device, this process {own:.1f}"


def _held_by_others(spec: LoadSpec | None) -> list[_Held]:
    """Every device of which others hold much."""
    held: list[_Held] = []
    if spec is not None and spec.hardware is not None:
        pairs = enumerate(zip(spec.hardware.taken, spec.hardware.gpus))
        held = [_Held(f"simgpu:{n}", taken, size) for n, (taken, size) in pairs]
    else:
        import torch

        for n in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            free, total = torch.cuda.mem_get_info(n)
            held.append(_Held(f"cuda:{n}", max(0, total - free - torch.cuda.memory_reserved(n)), total))
    return [one for one in held if one.nbytes > _SHARE * one.total]


def _would_fit(spec: LoadSpec | None, held: list[_Held]) -> bool:
    if spec is None:
        return True
    try:
        from diag.loading.checkpoint.find import find_checkpoint

        nbytes = find_checkpoint(spec.model).nbytes
    except Exception:  # not on this machine: then nothing is claimed about its size
        return True
    sizes = spec.hardware.gpus if spec.hardware is not None else [one.total for one in held]
    return int(nbytes * _SIZE.get(spec.quantization, 1.0)) <= sum(sizes)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_unquantized()
