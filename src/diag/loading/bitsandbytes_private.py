"""The one private door into bitsandbytes: which of its two 4-bit kernels computes a layer on the CPU.

On a CPU with AVX512-BF16, `Linear4bit.forward` repacks its weight and multiplies in bfloat16; everywhere else (GPUs,
simulated ones, other CPUs) it dequantizes and multiplies in the dtype of its input (bitsandbytes/nn/modules.py and
backends/cpu/ops.py, 0.50.2). Answers can be compared bit for bit only where both models use the same one.
"""

from torch import nn

_SWITCH = "support_avx512bf16_for_cpu"
ROWS_TOGETHER = 32  # block_n of _convert_weight_packed_for_cpu in bitsandbytes/functional.py, 0.50.2
BLOCK = 64  # values that share a scale, by default; in the bfloat16 kernel a row must hold whole blocks


def has_bfloat16_kernel(layer: nn.Module) -> bool:
    """Whether this layer is computed by the bfloat16 kernel when it runs on the CPU."""
    return bool(getattr(layer, _SWITCH, False))


def fits_bfloat16_kernel(layer: nn.Module) -> bool:
    """Whether that kernel can compute a layer of this shape; others load, and fail at the first call."""
    assert isinstance(layer, nn.Linear)
    block = getattr(layer.weight, "blocksize", None) or BLOCK
    return layer.out_features % ROWS_TOGETHER == 0 and layer.in_features % block == 0


def use_common_kernel(model: nn.Module) -> None:
    """Makes a model that has not run yet compute its 4-bit layers on the CPU as a GPU would."""
    for module in model.modules():
        if hasattr(module, _SWITCH):
            setattr(module, _SWITCH, False)
