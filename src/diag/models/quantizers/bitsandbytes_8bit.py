"""bitsandbytes in 8 bits: one byte an element, with a scale for each row (`SCB`, on the weight or its layer's state).

Source: bitsandbytes 0.50.2, `nn/modules.py` (Int8Params, Linear8bitLt). Recognised by class names, so that
bitsandbytes need not be imported.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

METHOD = "bitsandbytes"
LAYERS: tuple[str, ...] = ("Linear8bitLt", "Linear8bit")
WEIGHTS: tuple[str, ...] = ("Int8Params",)
STATE = ""  # it stands on the layer as well
PLANNED_BYTES = 1.0  # an element, as transformers plans (quantizers/quantizer_bnb_8bit.py, 5.23.0)


def is_packed(weight: torch.Tensor) -> bool:
    return type(weight).__name__ in WEIGHTS and weight.dtype in (torch.uint8, torch.int8)


def name_of(weight: torch.Tensor) -> str:
    return "int8" if type(weight).__name__ in WEIGHTS and weight.dtype == torch.int8 else "none"


def logical_numel(weight: torch.Tensor) -> int:
    return weight.numel()


def state_of(layer: nn.Module, name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    scales = _scales(layer, weight)
    if scales is not None:
        yield "SCB", scales


def lacks_state(layer: nn.Module, weight: torch.Tensor) -> bool:
    return weight.dtype == torch.int8 and (_scales(layer, weight) is None or type(weight).__name__ not in WEIGHTS)


def dequantized(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor | None:
    scales = _scales(layer, weight)
    return None if scales is None else weight.data.float() * (scales.float()[:, None] / 127.0)


def asked_for(config: Mapping[str, object]) -> str:
    return "int8" if config.get("load_in_8bit") or config.get("_load_in_8bit") else ""


def _scales(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor | None:
    held = getattr(weight, "SCB", None)
    held = getattr(getattr(layer, "state", None), "SCB", None) if held is None else held
    return held if isinstance(held, torch.Tensor) else None
