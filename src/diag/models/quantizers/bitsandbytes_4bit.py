"""bitsandbytes in 4 bits: two elements a byte, with a scale for each block (`quant_state`, on the weight itself).

Source: bitsandbytes 0.50.2, `nn/modules.py` (Params4bit, Linear4bit) and `functional.py` (QuantState). Recognised by
class names, so that bitsandbytes need not be imported.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

METHOD = "bitsandbytes"
LAYERS: tuple[str, ...] = ("Linear4bit", "LinearFP4", "LinearNF4")
WEIGHTS: tuple[str, ...] = ("Params4bit",)
STATE = "quant_state"
PLANNED_BYTES = 0.5  # an element, as transformers plans (quantizers/quantizer_bnb_4bit.py, 5.23.0)


def is_packed(weight: torch.Tensor) -> bool:
    return type(weight).__name__ in WEIGHTS and weight.dtype in (torch.uint8, torch.int8)


def name_of(weight: torch.Tensor) -> str:
    """`nf4` or `fp4`, with `-double` where the scales are quantized too."""
    state = getattr(weight, "quant_state", None)
    if state is None or type(weight).__name__ not in WEIGHTS:
        return "none"
    return f"{state.quant_type}-double" if getattr(state, "nested", False) else str(state.quant_type)


def logical_numel(weight: torch.Tensor) -> int:
    shape = getattr(getattr(weight, "quant_state", None), "shape", None)
    return weight.numel() if shape is None else torch.Size(shape).numel()


def state_of(layer: nn.Module, name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    state = getattr(weight, "quant_state", None)
    for part, prefix in ((state, ""), (getattr(state, "state2", None), "nested_")):
        for key, tensor in (("absmax", getattr(part, "absmax", None)), ("quant_map", getattr(part, "code", None))):
            if isinstance(tensor, torch.Tensor):
                yield f"{name}.{prefix}{key}", tensor


def lacks_state(layer: nn.Module, weight: torch.Tensor) -> bool:
    """The layer keeps the state as well, and gives it back to a weight of the right class."""
    if weight.dtype != torch.uint8 or getattr(weight, "quant_state", None) is not None:
        return False
    return getattr(layer, "quant_state", None) is None or type(weight).__name__ not in WEIGHTS


def dequantized(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor | None:
    state = getattr(weight, "quant_state", None)
    if state is None:
        return None
    from bitsandbytes.functional import dequantize_4bit

    return torch.as_tensor(dequantize_4bit(weight.data, state))


def asked_for(config: Mapping[str, object]) -> str:
    if not (config.get("load_in_4bit") or config.get("_load_in_4bit")):
        return ""
    kind = str(config.get("bnb_4bit_quant_type", "nf4"))
    return f"{kind}-double" if kind == "nf4" and config.get("bnb_4bit_use_double_quant") else kind
