"""Refuses an operation whose tensors are on two devices, in the two sentences that PyTorch has for it."""

import functools
from pathlib import Path

import torch

from diag.simgpu import private
from diag.simgpu.private import Op

# Operations that take index tensors from the CPU, as on a GPU.
_CPU_INDICES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}


def refuse_mix(op: Op, args: tuple[object, ...]) -> None:
    """Raises RuntimeError for tensors on several devices, in the words this kind of operation uses."""
    schema = private.schema(op)
    given = zip((argument.name for argument in schema.arguments), args)
    each = ((name, one) for name, value in given for one in (value if isinstance(value, (list, tuple)) else (value,)))
    tensors = [(name, one) for name, one in each if isinstance(one, torch.Tensor)]
    takes_indices = schema.name in _CPU_INDICES
    if takes_indices and _indices_may_be_here(tensors):
        return
    sentence = "Expected all tensors to be on the same device, but"
    if torch.Tag.pointwise in op.tags or takes_indices:
        values = [value for name, value in tensors if not (name == "indices" and value.is_cpu)]
        common = next(value.device for value in values if not value.is_cpu)
        other = next(value.device for value in values if value.device != common and (value.dim() or not value.is_cpu))
        raise RuntimeError(f"{sentence} found at least two devices, {common} and {other}!")
    common = tensors[0][1].device
    name, device = next((name, value.device) for name, value in tensors if value.device != common)
    base, overload = schema.name.split("::")[-1], schema.overload_name
    method = f"wrapper_{private.NAME}_{base if is_structured(base, overload) else f'{overload}_{base}'}"
    raise RuntimeError(
        f"{sentence} got {name} is on {device}, different from other tensors on {common} "
        f"(when checking argument in method {method})"
    )


def _indices_may_be_here(tensors: list[tuple[str, torch.Tensor]]) -> bool:
    """Whether indices are on the CPU or beside the indexed tensor, and values beside it or single numbers."""
    home = tensors[0][1].device
    for name, value in tensors[1:]:
        is_index = name == "indices"
        if value.device == home or (value.is_cpu and (is_index or value.dim() == 0)):
            continue
        if is_index:
            raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor ({home})")
        return False
    return True


@functools.cache
def is_structured(name: str, overload: str) -> bool:
    """Whether PyTorch generates an operation's checks from a structured kernel, whose wrapper names no overload.

    Reads torchgen/packaged/ATen/native/native_functions.yaml (torch 2.13.0; dest/register_dispatch_key.py makes the
    names); only an error comes here.
    """
    listed = Path(torch.__file__).parent.parent / "torchgen" / "packaged" / "ATen" / "native" / "native_functions.yaml"
    try:
        text = listed.read_text(encoding="utf-8")
    except OSError:
        return False
    start = text.find(f"- func: {name}{'.' * bool(overload)}{overload}(")
    return "\n  structured" in text[start : text.find("\n- func:", start + 1)] if start >= 0 else False
