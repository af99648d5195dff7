"""Catalogue entries: quantization. Prose, nothing else."""

from __future__ import annotations

from diag.diagnosis.cause import Cause

_BNB = "bitsandbytes 0.50.2, transformers 5.23.0, accelerate 1.15.0"

QUANTIZED_CAUSES = (
    Cause(
        id="quantized-offload-refused",
        title="A quantized load was refused because its map holds cpu or disk",
        explanation=(
            "bitsandbytes keeps packed weights on the accelerator. When the device map, often computed by 'auto', "
            "sends a module to the CPU or to disk, transformers refuses before it reads a weight. Memory need not be "
            "full: the plan alone decides, and it also counts what others hold."
        ),
        proves=("The error is the loader's refusal, and the spec's map holds cpu or disk beside another device.",),
        rules_out=("The whole map is one device, the CPU included.",),
        check="What did the map come out as: does it hold 'cpu' or 'disk'?",
        fix="Make it fit: free the GPU, use 4-bit instead of 8-bit, or put everything on one device "
        "(device_map='single'). llm_int8_enable_fp32_cpu_offload=True with a map as a dict loads, and leaves the "
        "offloaded modules unquantized.",
        avoid=(
            "load_in_8bit_fp32_cpu_offload: older error texts named it, it never existed.",
            "counting on 4-bit sizes with the fp32 offload switch: offloaded modules stay at full size.",
        ),
        versions=_BNB,
    ),
    Cause(
        id="quantization-skipped",
        title="Quantization was asked for, and some or all layers are not quantized",
        explanation=(
            "A quantization config names what to do; whether it was done shows in the layers. Modules that are "
            "offloaded, named in llm_int8_skip_modules, of a class that the quantizer does not know, or whose keys are "
            "missing from the checkpoint stay in full precision, or are packed classes around plain weights. The "
            "model takes far more memory than planned, or stops in fix_4bit_weight_quant_state_from_module."
        ),
        proves=("The config asks for quantization, and Linear layers hold unpacked weights.",),
        rules_out=("Only the output head and what the config names itself are unpacked.",),
        check="Which Linear layers are of a quantized class, and which are not?",
        fix="Keep the whole model on accelerators so that nothing is left out, or repair the checkpoint's keys; then "
        "load again.",
        avoid=("trusting model.is_quantized: it repeats the config.",),
        versions=_BNB,
        severity="silent",
    ),
    Cause(
        id="quantization-state-lost",
        title="Packed weights lost their quantization state",
        explanation=(
            "A 4-bit or 8-bit weight is a block of bytes; scale factors stored beside it say what the bytes mean. "
            "Copying the weight by hand, rebuilding it as nn.Parameter, deep copies by tools, or moving only the "
            "bytes loses the scales. Then the layer fails, or the bytes are used as numbers or quantized once more."
        ),
        proves=(
            "A packed weight (uint8 or int8 in a quantized layer) has no quant_state or no scales.",
            "The quantization state is on meta while the weight is real.",
        ),
        rules_out=("Every packed weight has its state on the same device.",),
        check="Is type(layer.weight) still Params4bit or Int8Params, with its state?",
        fix="Load the model again; never rebuild a packed parameter by hand.",
        avoid=("casting the bytes to float: they are indices, not numbers.",),
        versions=_BNB + "; bitsandbytes 0.50 restores a lost 4-bit state from the module where it can",
    ),
    Cause(
        id="quantized-cast",
        title="A quantized model was cast to another dtype",
        explanation=(
            "Packed weights have no dtype to cast: .half(), .float() or .to(dtype) would destroy them, so transformers "
            "refuses. Moving to another device is allowed in recent versions."
        ),
        proves=("The refusal names a cast of a quantized model.",),
        rules_out=("The model is not quantized.",),
        check="Which line calls .half(), .float() or .to() with a dtype?",
        fix="Remove the cast and pass dtype= when loading; it is the dtype that the layers compute in.",
        avoid=("dequantizing first: it gives back the full size and keeps the loss.",),
        versions=_BNB,
    ),
    Cause(
        id="quantization-backend-missing",
        title="The library that does the quantization is absent, too old, or can't find its native part",
        explanation=(
            "transformers only asks for the quantization; bitsandbytes, GPTQModel and others do it. If the package is "
            "missing, older than transformers needs, or its compiled library does not fit the driver, loading stops, "
            "or the handle is None and the first layer fails with a strange AttributeError."
        ),
        proves=("The library can't be imported here, or the error comes from loading its native part.",),
        rules_out=("A tiny quantized model loads and runs in this environment.",),
        check="What does `python -m bitsandbytes` print?",
        fix="Install or upgrade the library in this environment (pip install -U bitsandbytes), and match its CUDA "
        "build to the driver.",
        avoid=("copying a library file from another installation over it.",),
        versions="texts about CUDA Setup belong to bitsandbytes before 0.45; recent wheels run on the CPU too",
        shown_on="the library can't be taken away from a running process; the texts are recognised",
    ),
)
