"""The user's own files behind a spec: loader, probe, adapter, saved request. When they change, a row is done again."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diag.planning import Plan
from diag.spec import LoadSpec


def data_fingerprint(spec: LoadSpec) -> str:
    """Of the adapter's files and of a saved request; empty without either."""
    from diag.savedrequest import is_saved_request

    paths: list[Path] = []
    if spec.adapter is not None and Path(spec.adapter).is_dir():
        paths += sorted(path for path in Path(spec.adapter).iterdir() if path.is_file())
    if is_saved_request(spec.probe):
        paths.append(Path(str(spec.probe)))
    return _hash(paths)


def code_fingerprint(spec: LoadSpec) -> str:
    """Of the files that hold the loader and the probe function; empty without either."""
    from diag.probing import is_function

    names = [spec.loader] if spec.loader is not None else []
    if spec.probe is not None and is_function(spec.probe):
        names.append(spec.probe)
    return _hash(path for name in names if (path := _file_of(name.partition(":")[0])) is not None)


def bytes_written(plan: Plan) -> int:
    """What offloading to disk copies: nothing for plain safetensors, which accelerate reads where they are.

    Tensors of a `.bin` file, and those that a converter puts together (experts), are written to the offload folder.
    Source: offload_and_maybe_resave_param in transformers/core_model_loading.py, 5.23.0.
    """
    on_disk = (plan.nbytes or {}).get("disk", 0)
    config = plan.config
    experts = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    copied = experts or any(path.suffix == ".bin" for path in plan.checkpoint.files)
    return on_disk if copied else 0


def device_text(device: str) -> str:
    """An accelerator's index as its name (`simgpu:0`); other devices as they are."""
    from diag.machine import accelerator_name

    return f"{accelerator_name()}:{device}" if device.isdigit() else device


def _file_of(module: str) -> Path | None:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return None if found is None or found.origin is None else Path(found.origin)


def _hash(paths: Iterable[Path]) -> str:
    digest, any_file = hashlib.sha256(), False
    for path in paths:
        try:
            facts: Any = (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        except OSError:
            continue
        any_file = True
        digest.update(repr(facts).encode())
    return digest.hexdigest()[:16] if any_file else ""
