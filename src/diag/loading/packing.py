"""Which modules hold bitsandbytes weights, and which of its two 4-bit kernels computes them.

On a CPU with AVX512-BF16, `Linear4bit.forward` repacks its weight and multiplies in bfloat16; everywhere else (GPUs,
simulated ones, other CPUs) it dequantizes and multiplies in the dtype of its input (bitsandbytes/nn/modules.py and
backends/cpu/ops.py, 0.50.2). Answers can be compared bit for bit only where both models use the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diag.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import nn

_FUSED = "support_avx512bf16_for_cpu"
_ROWS_TOGETHER = 32  # block_n of _convert_weight_packed_for_cpu in bitsandbytes/functional.py, 0.50.2
_BLOCK = 64  # values that share a scale, by default; there a row must hold whole blocks


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
    return packed_of(model.named_modules(), lambda _, module: str(module.weight.device))


def packed_of(modules: Iterable[tuple[str, nn.Module]], device_of: Callable[[str, nn.Module], Any]) -> Packed:
    """The packed ones among named modules, each of which runs on `device_of(name, module)`."""
    packed = [(name, module) for name, module in modules if is_packed_class(module)]
    fused = [(n, m) for n, m in packed if getattr(m, _FUSED, False) and device_of(n, m) == "cpu"]
    unfit = tuple(name for name, module in fused if _does_not_fit(module))
    return Packed(tuple(name for name, _ in packed), bool(fused), unfit)


def _does_not_fit(module: Any) -> bool:
    block = getattr(module.weight, "blocksize", None) or _BLOCK
    return bool(module.out_features % _ROWS_TOGETHER or module.in_features % block)


def refuse_unfit(packed: Packed) -> None:
    """Raises UnsupportedError for layers that load and then fail at the first call, for their shape."""
    if packed.unfit:
        raise UnsupportedError(
            f"{len(packed.unfit)} layers can't be computed in 4 bits on this CPU, {packed.unfit[0]!r} among them.",
            why=f"on a CPU with AVX512-BF16 bitsandbytes needs out_features to be a multiple of {_ROWS_TOGETHER} "
            f"and in_features of {_BLOCK}, and fails at the first call (_convert_weight_packed_for_cpu in "
            "bitsandbytes/functional.py, 0.50.2).",
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
