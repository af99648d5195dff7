"""How a quantizer is asked for: from a spec's quantization to the config that transformers takes, or a refusal."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from diag.errors import MissingLibraryError, UnsupportedError
from diag.loading.checkpoint.files import Checkpoint
from diag.values.spec import AS_STORED, QUANTIZATIONS, LoadSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.quantization_config import QuantizationConfigMixin

_OFFLOAD_RULE = (
    "bitsandbytes weights can't be offloaded: with cpu or disk entries beside an accelerator (or disk alone) "
    "transformers refuses unless llm_int8_enable_fp32_cpu_offload=True is set (validate_environment in "
    "transformers/quantizers/quantizer_bnb_4bit.py and quantizer_bnb_8bit.py, 5.23.0)."
)


def quantizer_config(
    spec: LoadSpec, checkpoint: Checkpoint, config: PretrainedConfig | None
) -> QuantizationConfigMixin | None:
    """The object for `from_pretrained(quantization_config=…)`, or None; `config` is the model's own, where known.

    Raises UnsupportedError for what the checkpoint or this quantizer can't do, MissingLibraryError where
    bitsandbytes is absent or too old.
    """
    _check_stored(spec, checkpoint)
    if spec.quantization in ("none", AS_STORED):
        return None
    import transformers

    if spec.quantization in QUANTIZATIONS:
        require_bitsandbytes()
        dtype = getattr(config, "dtype", None) if spec.dtype == "auto" else spec.dtype  # "auto" keeps the stored one
        if str(dtype).removeprefix("torch.") == "float64" and spec.quantization != "int8":
            what = f"{spec.quantization} can't pack float64 weights."
            why = "quantize_4bit in bitsandbytes/functional.py, 0.50.2: only 16/32-bit floats."
            raise UnsupportedError(what, why=why, next_step="use dtype='float32', 'bfloat16' or 'float16'.")
        return transformers.BitsAndBytesConfig(**bitsandbytes_arguments(spec.quantization, spec.dtype))
    name, _, text = spec.quantization.partition(" ")
    kind = getattr(transformers, name, None)
    if kind is None:
        what = f"transformers {transformers.__version__} has no {name}."
        next_step = "install the transformers it comes from, or use one of: " + ", ".join(QUANTIZATIONS) + "."
        raise UnsupportedError(what, why="the quantization of this spec was given as that class.", next_step=next_step)
    if name == "BitsAndBytesConfig":
        require_bitsandbytes()
    return kind.from_dict(json.loads(text))


def _check_stored(spec: LoadSpec, checkpoint: Checkpoint) -> None:
    """A quantized checkpoint loads as it is stored; asking for another quantization is refused."""
    stored = checkpoint.config.get("quantization_config")
    if stored and spec.quantization != AS_STORED:
        method = stored.get("quant_method", "a quantizer") if isinstance(stored, Mapping) else "a quantizer"
        raise UnsupportedError(
            f"{spec.model!r} is already quantized (by {method}); quantization={spec.quantization!r} can't be applied.",
            why="config.json has a quantization_config, and transformers lets the stored one win.",
            next_step="use quantization='as-stored'.",
        )
    if not stored and spec.quantization == AS_STORED:
        what = f"{spec.model!r} is not stored quantized, so there is nothing to load 'as-stored'."
        why = "config.json has no quantization_config."
        raise UnsupportedError(what, why=why, next_step="use one of: " + ", ".join(QUANTIZATIONS) + ".")


def bitsandbytes_arguments(quantization: str, dtype: str) -> dict[str, object]:
    """The arguments of BitsAndBytesConfig that one of our names stands for, for a model of this dtype."""
    if quantization == "int8":
        return {"load_in_8bit": True}
    kind = quantization.removesuffix("-double")
    arguments: dict[str, object] = {"load_in_4bit": True, "bnb_4bit_quant_type": kind}
    if quantization != kind:
        arguments["bnb_4bit_use_double_quant"] = True
    if dtype != "auto":
        arguments["bnb_4bit_compute_dtype"] = dtype
    return arguments


def require_bitsandbytes() -> None:
    """Raises MissingLibraryError where bitsandbytes is absent or too old for this transformers."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingLibraryError(
            "this quantization needs bitsandbytes, and it is not installed.",
            why="int8, nf4 and fp4 are bitsandbytes formats; transformers would raise ImportError.",
            next_step="pip install -U bitsandbytes, or load with quantization='none'.",
        )
    from packaging.version import Version
    from transformers import utils

    have, need = importlib.metadata.version("bitsandbytes"), getattr(utils, "BITSANDBYTES_MIN_VERSION", "0.43.1")
    if Version(have) < Version(need):
        what = f"bitsandbytes {have} is too old for this transformers, which needs {need} or newer."
        why = "transformers.utils.BITSANDBYTES_MIN_VERSION."
        raise MissingLibraryError(what, why=why, next_step="pip install -U bitsandbytes.")


def is_bitsandbytes(spec: LoadSpec, config: PretrainedConfig | None) -> bool:
    """Whether bitsandbytes does the packing; `config`, the model's own, tells for one stored packed."""
    if spec.quantization == AS_STORED:
        stored = getattr(config, "quantization_config", None)
        values = stored if isinstance(stored, Mapping) else getattr(stored, "__dict__", {})
        return "bitsandbytes" in str(values.get("quant_method", "")).lower() or any(
            values.get(name) for name in ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit")
        )
    named = spec.quantization in QUANTIZATIONS and spec.quantization != "none"
    return named or spec.quantization.startswith("BitsAndBytesConfig ")


def known_refusal(spec: LoadSpec, config: PretrainedConfig | None, error: ValueError) -> UnsupportedError | None:
    """The rule behind an error that transformers raises before it reads a weight; None for any other error."""
    text = str(error)
    if is_bitsandbytes(spec, config) and "dispatched on the CPU or the disk" in text:
        unquantized = "the unquantized checkpoint" if spec.quantization == AS_STORED else "quantization='none'"
        what = f"{spec.quantization} with a map that holds cpu or disk is refused before the load."
        next_step = f"use a map on the accelerator alone, more memory, a smaller model or {unquantized}."
        return UnsupportedError(what, why=_OFFLOAD_RULE, next_step=next_step)
    if "DeepSpeed Zero-3" in text:
        return UnsupportedError(
            "a device map together with DeepSpeed ZeRO-3 is refused before the load.",
            why="check_and_set_device_map in transformers/integrations/accelerate.py: " + text,
            next_step="drop the device map, or end the ZeRO-3 configuration of this process.",
        )
    return None
