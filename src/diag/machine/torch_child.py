"""Runs as a script, in a process of its own: prints what torch says about itself and its accelerators as one JSON line.

Imports nothing of diag, and torch only where its failure can be told. `torch_devices` starts it.
"""

import json
from types import ModuleType

MARK = "diag-devices:"


def _look() -> dict[str, object]:
    state: dict[str, object] = {"version": "", "built_for": "", "devices": [], "error": ""}
    try:
        import torch

        state["version"] = str(torch.__version__)
        built_for = ((name, getattr(torch.version, name, None)) for name in ("cuda", "hip", "xpu"))
        state["built_for"] = next((f"{name} {version}" for name, version in built_for if version), "cpu")
        kind = accelerator_kind(torch)
        if kind:
            state["devices"] = [_device(torch, kind, i) for i in range(torch.get_device_module(kind).device_count())]
    except BaseException as e:  # a broken torch raises what it likes, SystemExit included
        state["error"] = f"{type(e).__name__}: {e}"
    return state


def accelerator_kind(torch: ModuleType) -> str:
    """`cuda`, `xpu`, `mps`, …, or nothing. By torch.accelerator, before torch 2.6 by CUDA alone."""
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is None:
        return "cuda" if torch.cuda.is_available() else ""
    return accelerator.current_accelerator().type if accelerator.is_available() else ""


def _device(torch: ModuleType, kind: str, index: int) -> dict[str, object]:
    module = torch.get_device_module(kind)
    free, total = free_and_total_bytes(module, kind, index)
    properties = module.get_device_properties(index) if hasattr(module, "get_device_properties") else None
    model, uuid = getattr(properties, "name", kind), getattr(properties, "uuid", "")
    return {"name": f"{kind}:{index}", "model": model, "free_bytes": free, "total_bytes": total, "uuid": str(uuid)}


def free_and_total_bytes(module: ModuleType, kind: str, index: int) -> tuple[int | None, int | None]:
    """The memory of one accelerator; None where its backend does not tell."""
    if kind == "mps":  # unified memory: what Metal recommends to stay below, less what it holds
        total = int(module.recommended_max_memory())
        return total - int(module.driver_allocated_memory()), total
    if not hasattr(module, "mem_get_info"):
        return None, None
    free, total = module.mem_get_info(index)
    return int(free), int(total)


if __name__ == "__main__":
    print(f"{MARK}{json.dumps(_look())}")
