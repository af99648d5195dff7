"""What a device map comes to: which layers are packed and by which kernel, the bytes on each device, and why it spills.

On a CPU with AVX512-BF16, `Linear4bit.forward` repacks its weight and multiplies in bfloat16; everywhere else (GPUs,
simulated ones, other CPUs) it dequantizes and multiplies in the dtype of its input (bitsandbytes/nn/modules.py and
backends/cpu/ops.py, 0.50.2). Answers can be compared bit for bit only where both models use the same kernel.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from diag.values.spec import AUTO_PRESETS
from diag.values.units import format_size

Device = str | int
ROWS_TOGETHER = 32  # block_n of _convert_weight_packed_for_cpu in bitsandbytes/functional.py, 0.50.2
BLOCK = 64  # values that share a scale, by default; in the bfloat16 kernel a row must hold whole blocks
_SWITCH = "support_avx512bf16_for_cpu"  # of a layer: whether that kernel computes it


@dataclass(frozen=True)
class Packed:
    """The quantized layers of a model by name, and whether the bfloat16 CPU kernel computes any of them.

    `unfit` are those that this kernel can't compute: they load, and fail at the first call.
    """

    names: tuple[str, ...] = ()
    fused: bool = False
    unfit: tuple[str, ...] = ()


NOTHING = Packed()


def packed_layers(model: nn.Module) -> Packed:
    """What a loaded model holds packed."""
    packed = [(name, module) for name, module in model.named_modules() if is_packed_class(module)]
    return packed_among(packed, {name: str(module.weight.device) for name, module in packed})


def packed_among(layers: Iterable[tuple[str, nn.Module]], devices: Mapping[str, Device]) -> Packed:
    """The packed ones among named layers, each of which runs on its device in `devices`."""
    packed = [(name, layer) for name, layer in layers if is_packed_class(layer)]
    fused = [(name, layer) for name, layer in packed if devices[name] == "cpu" and getattr(layer, _SWITCH, False)]
    unfit = tuple(name for name, layer in fused if not _fits_bfloat16_kernel(layer))
    return Packed(tuple(name for name, _ in packed), bool(fused), unfit)


def _fits_bfloat16_kernel(layer: nn.Module) -> bool:
    assert isinstance(layer, nn.Linear)
    block = getattr(layer.weight, "blocksize", None) or BLOCK
    return layer.out_features % ROWS_TOGETHER == 0 and layer.in_features % block == 0


def use_common_kernel(model: nn.Module) -> None:
    """Makes a model that has not run yet compute its 4-bit layers on the CPU as a GPU would."""
    for module in model.modules():
        if hasattr(module, _SWITCH):
            setattr(module, _SWITCH, False)


def is_packed_class(module: nn.Module) -> bool:
    """A bitsandbytes linear layer, by class name, so that bitsandbytes need not be imported."""
    return any(kind.__name__ in ("Linear4bit", "Linear8bitLt") for kind in type(module).__mro__)


def linear_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Linear-like layers by name, those that a quantizer may replace (transformers' Conv1D included)."""
    named = model.named_modules()
    return [(name, m) for name, m in named if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]


def plain_devices(device_map: Mapping[str, object], accelerator: str | None) -> dict[str, Device]:
    """The map with devices as a spec writes them: the current accelerator's as numbers, all others as text."""
    plain: dict[str, Device] = {}
    for name, device in device_map.items():
        kind, _, index = str(device).partition(":")
        plain[name] = device if isinstance(device, int) else int(index or 0) if kind == accelerator else str(device)
    return plain


def module_devices(model: nn.Module, device_map: Mapping[str, Device]) -> dict[str, Device]:
    """Where the map puts each module: its own entry, or that of the closest module around it; else the CPU."""
    devices: dict[str, Device] = {}
    for path, _ in model.named_modules():
        around = devices.get(path.rpartition(".")[0], "cpu")
        devices[path] = device_map.get(path, around)
    return devices


def bytes_per_device(model: nn.Module, device_map: Mapping[str, Device], tied: Mapping[str, str]) -> dict[str, int]:
    """Bytes that the map places on each device, each tied tensor once: `tied` maps names to those they follow.

    As transformers plans: a weight to be packed counts 1 byte an element for int8 and half a byte for 4 bits, without
    its quantization state (quantized_element_size in quantizers/quantizer_bnb_*.py, 5.23.0).
    """
    sums: dict[str, int] = {}
    devices = module_devices(model, device_map)
    for path, module in model.named_modules():
        packed = is_packed_class(module)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            full = f"{path}.{name}" if path else name
            if tensor is None or full in tied:
                continue
            size: float = tensor.element_size()
            if packed and name == "weight":
                size = 1.0 if any(kind.__name__ == "Linear8bitLt" for kind in type(module).__mro__) else 0.5
            device = str(device_map.get(full, devices[path]))
            sums[device] = sums.get(device, 0) + int(tensor.numel() * size)
    return sums


def why_spilled(
    preset: str | tuple[tuple[str, Device], ...],
    placed: Mapping[str, Device] | None,
    nbytes: Mapping[str, int],
    limits: Mapping[Device, int],
    accelerator: str | None,
) -> str:
    """One sentence: which block was the first to leave the first device, and what pushed it. Empty: none left."""
    if placed is None or not isinstance(preset, str):
        return ""
    first = next(iter(placed.values()))
    left = [(name, device) for name, device in placed.items() if device != first]
    if not left:
        return ""
    from_device, (name, then) = _device_text(first, accelerator), left[0]
    if preset not in AUTO_PRESETS:
        return f"{len(left)} map entries left {from_device} because the preset {preset!r} puts them elsewhere"
    limit = f"its limit is {format_size(limits[first])}" if first in limits else "it has no limit"
    reason = "room for the largest block is kept free there"
    if isinstance(then, int) and preset != "sequential":
        accelerators = sum(isinstance(key, int) for key in limits)
        reason = f"{preset!r} spreads the blocks over {accelerators} accelerators"
    return (
        f"{name!r} is the first to leave {from_device}, for {_device_text(then, accelerator)}: "
        f"{format_size(nbytes.get(str(first), 0))} of {format_size(sum(nbytes.values()))} are placed there, "
        f"{limit}, and {reason}"
    )


def _device_text(device: Device, accelerator: str | None) -> str:
    return f"{accelerator}:{device}" if isinstance(device, int) else str(device)
