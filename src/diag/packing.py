"""Which modules hold bitsandbytes weights, and which of its two 4-bit kernels computes them.

On a CPU with AVX512-BF16, `Linear4bit.forward` repacks its weight and multiplies in bfloat16; everywhere else (GPUs,
simulated ones, other CPUs) it dequantizes and multiplies in the dtype of its input (bitsandbytes/nn/modules.py and
backends/cpu/ops.py, 0.50.2). Answers can be compared bit for bit only where both models use the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diag.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import nn

_FUSED = "support_avx512bf16_for_cpu"
_ROWS_TOGETHER = 32  # block_n of _convert_weight_packed_for_cpu in bitsandbytes/functional.py, 0.50.2


@dataclass(frozen=True)
class Packed:
    """The quantized modules of a model by name, and whether the bfloat16 CPU kernel computes any of them.

    `unfit` are those that this kernel can't compute.
    """

    names: tuple[str, ...] = ()
    fused: bool = False
    unfit: tuple[str, ...] = ()


NOTHING = Packed()


def packed_modules(model: nn.Module) -> Packed:
    """What a loaded model holds packed."""
    found = [(name, module) for name, module in model.named_modules() if is_packed_class(module)]
    return packed_of(found, {name: str(module.weight.device) for name, module in found})


def packed_of(modules: Iterable[tuple[str, nn.Module]], devices: Mapping[str, Any]) -> Packed:
    """The packed ones among named modules, which run on `devices`, by name."""
    packed = [(name, module) for name, module in modules if is_packed_class(module)]
    fused = [(n, module) for n, module in packed if getattr(module, _FUSED, False) and devices.get(n) == "cpu"]
    unfit = tuple(name for name, module in fused if getattr(module, "out_features", 0) % _ROWS_TOGETHER)
    return Packed(tuple(name for name, _ in packed), bool(fused), unfit)


def refuse_unfit(packed: Packed) -> None:
    """Raises UnsupportedError for layers that load and then fail at the first call, for their shape."""
    if packed.unfit:
        raise UnsupportedError(
            f"{packed.unfit[0]} can't be computed in 4 bits on this CPU, nor can {len(packed.unfit) - 1} more.",
            why=f"on a CPU with AVX512-BF16 bitsandbytes needs out_features to be a multiple of {_ROWS_TOGETHER} "
            "(_convert_weight_packed_for_cpu in bitsandbytes/functional.py, 0.50.2): AssertionError, N must be "
            "divisible by block_n.",
            next_step="use int8 or none on this CPU, or a map on an accelerator.",
        )


def use_common_kernel(model: nn.Module) -> None:
    """Makes a model that has not run yet compute its 4-bit layers on the CPU as a GPU would."""
    for module in model.modules():
        if hasattr(module, _FUSED):
            setattr(module, _FUSED, False)


def is_packed_class(module: nn.Module) -> bool:
    """A bitsandbytes linear layer, by class name, so that bitsandbytes need not be imported."""
    return any(kind.__name__ in ("Linear4bit", "Linear8bitLt") for kind in type(module).__mro__)
