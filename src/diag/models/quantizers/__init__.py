"""What diag knows of each quantizer, one file each: how its weights, layers and config look, and what they hold.

`Quantizer` below lists the questions a file answers. To add one, write its file and name it in `ALL`.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import nn

from diag.models.quantizers import bitsandbytes_4bit, bitsandbytes_8bit


class Quantizer(Protocol):
    """The questions about one quantizer. `layer` is the module that owns the weight.

    `LAYERS` and `WEIGHTS` are class names of its layers and of its weights; `STATE` is the attribute that shows a
    weight which lost its class, empty where there is none.
    """

    METHOD: str
    LAYERS: tuple[str, ...]
    WEIGHTS: tuple[str, ...]
    STATE: str
    PLANNED_BYTES: float

    def is_packed(self, weight: torch.Tensor) -> bool:
        """Whether this tensor is a weight of this quantizer, packed."""

    def name_of(self, weight: torch.Tensor) -> str:
        """What `quantization` says in the placement table: `nf4`, `int8`, …, or `none` while it is not packed."""

    def logical_numel(self, weight: torch.Tensor) -> int:
        """Elements of the weight that it stands for."""

    def state_of(self, layer: nn.Module, name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Its scales and tables, under the names that the layer's `state_dict` gives them."""

    def lacks_state(self, layer: nn.Module, weight: torch.Tensor) -> bool:
        """Whether the weight is packed bytes, and nothing says what they mean."""

    def dequantized(self, layer: nn.Module, weight: torch.Tensor) -> torch.Tensor | None:
        """The weight in full, as its own library computes it; None without its state."""

    def asked_for(self, config: Mapping[str, object]) -> str:
        """The spec's name for what a quantization config of `METHOD` asks for; empty where it asks for another."""


ALL: tuple[Quantizer, ...] = (bitsandbytes_4bit, bitsandbytes_8bit)
_PLAIN = (torch.Tensor, nn.Parameter)


def quantizer_of(weight: torch.Tensor) -> Quantizer | None:
    """The quantizer whose parameter class or state this tensor has; None for a plain tensor."""
    if type(weight) in _PLAIN and not weight.__dict__:
        return None
    for one in ALL:
        if type(weight).__name__ in one.WEIGHTS or (one.STATE and getattr(weight, one.STATE, None) is not None):
            return one
    return None


def quantizer_of_layer(module: nn.Module) -> Quantizer | None:
    """The quantizer that this layer's class, or one it is derived from, belongs to; None for any other module."""
    for kind in type(module).__mro__:
        if kind.__name__ in _BY_LAYER:
            return _BY_LAYER[kind.__name__]
    return None


_BY_LAYER = {layer: one for one in ALL for layer in one.LAYERS}


def config_of(model: object) -> dict[str, object]:
    """A model's quantization config as a dict, `quant_method` as text; empty without one."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is None:
        return {}
    if isinstance(config, Mapping):
        values = dict(config)
    else:
        values = dict(config.to_dict() if hasattr(config, "to_dict") else vars(config))
    method = values.get("quant_method")
    return {**values, "quant_method": str(getattr(method, "value", method)).lower()}


def asked_for(model: object) -> str:
    """The spec's name for the quantization that a model's config asks for: `int8`, `nf4`, …, or `none`."""
    config = config_of(model)
    return next((name for one in ALL if (name := one.asked_for(config))), "none")
