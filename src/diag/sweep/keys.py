"""Under which key a row, a load and a twin's answer are kept: it changes with all that could change the value. Pure."""

import functools
import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path

from diag.loading.footprint import NOTHING, Packed
from diag.machine import environment
from diag.sweep.cell.records import Planned
from diag.values.spec import AS_STORED, LoadSpec

versions = functools.cache(environment.versions)


def row_key(plan: Planned, machine: Sequence[str]) -> str:
    """Changes with the spec, its files, the libraries, diag, and for this machine its devices."""
    return _key("row", plan.spec.to_json(), *_conditions(plan, machine))


def load_key(plan: Planned, machine: Sequence[str]) -> str:
    """Equal for specs that come to the same load: same resolved map, quantization, dtype and the rest."""
    spec = plan.spec
    values = {**spec.to_json(), "device_map": plan.resolved_map, "max_memory": None}
    if plan.failure is not None or spec.loader is not None:
        values["device_map"] = f"as asked: {spec.device_map_text}"
    return _key("load", values, *_conditions(plan, machine))


def twin_key(plan: Planned, quantization: str, packed: Packed, threads: int) -> str:
    """Thread count and kind of CPU included: sums may round differently on others."""
    spec = plan.spec
    own_probe = plan.loader_fingerprint if ":" in (spec.probe or "") else ""
    facts = [spec.model, quantization, spec.dtype, spec.adapter, spec.probe, own_probe, packed.names, packed.fused]
    return _key("twin", facts, plan.fingerprint, versions(), threads, processor())


def needed_references(plan: Planned, packed: Packed | None, threads: int) -> dict[str, tuple[LoadSpec, Packed]]:
    """The twin first, and last, for the quality figure, the unquantized model: key to spec and what to pack. `packed`
    are the modules that the load was found to hold packed, if it is done; None is for not yet. The result is empty
    where that decides and is not known: nobody knows beforehand what a user's loader packs."""
    spec = plan.spec
    plain = {twin_key(plan, "none", NOTHING, threads): (spec.replace(quantization="none"), NOTHING)}
    if spec.quantization == "none":
        return plain
    if spec.loader is None:
        packed = plan.packed
    elif packed is None:
        return {}
    twin = {twin_key(plan, spec.quantization, packed, threads): (spec, packed)}
    return twin if spec.quantization == AS_STORED else twin | plain


def _conditions(plan: Planned, machine: Sequence[str]) -> tuple[object, ...]:
    here = processor() if plan.spec.simulated else (processor(), *machine)
    return [plan.fingerprint, plan.loader_fingerprint], versions(), here


@functools.cache
def processor() -> str:
    """The CPU's model and features, which decide its kernels (/proc/cpuinfo; elsewhere what `platform` knows)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    telling = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(telling)}))


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
