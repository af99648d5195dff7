"""Readings of a copy out of meta and of a value asked of a meta tensor: the frames tell what was being done.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.diagnosis.evidence.trace import Trace
from diag.diagnosis.reading.point import Point

_TO_MODEL_DEVICE = re.compile(
    r"\.to\(\s*(?:device=)?(?:self\.)?(?:\w+\.)*(?:device|parameters\(\)\)\.device)\s*[,)]|to_device\("
)
_STATE_DICT = re.compile(r"state_dict\b|\bfor \w+, \w+ in \w+\.items\(\)")
_MOVE = re.compile(r"\.(?:to|cuda|cpu|half|float|bfloat16|xpu|npu|mps|hpu)\(")


def copy_points(trace: Trace) -> Iterator[Point]:
    said = "a meta tensor was to be copied to a real device"
    if trace.says("whilecopyingtheparameternamed"):
        ranks = trace.says("deepspeed", "fsdp", "zero3", "rank", "torchrun", "accelerate/commands/launch")
        given = "load_state_dict was given meta tensors as the source"
        yield Point("distributed-loader-conflict", 9 if ranks else 2, f"{given}, as ranks other than 0 get")
        yield Point("saving-offloaded-model", 6, f"{given}, as state_dict() of an offloaded model holds")
        yield Point("never-materialised", 4, given)
        return
    if trace.passes("accelerate/utils/operations.py") or trace.calls("send_to_device"):
        yield Point("input-on-meta", 8, "an input, not a weight, was on meta when accelerate's hook moved the inputs")
    yield from _copied_from(trace, said)
    moved = trace.moved_module or next((f for f in reversed(trace.frames) if _MOVE.search(f.code)), None)
    suffix = trace.says("to_empty()insteadof")
    dispatched = trace.offload_seen or trace.auto_map
    if trace.calls("cpu", "xpu", "npu") and not suffix:
        yield Point(
            "moved-after-dispatch",
            4,
            ".cpu() and its like are not guarded by accelerate, so they reach the placeholders",
        )
    if moved is not None or suffix:
        yield Point(
            "moved-after-dispatch",
            (6 if dispatched else 4) - (2 if not suffix and trace.moved_module is None else 0),
            "a module was moved" + (" after a load with a map" if dispatched else ""),
        )
        yield Point("never-materialised", 3 if dispatched else 5, "a module was moved whose tensors have no data here")
    else:
        yield Point("never-materialised", 3, said)
        yield Point("moved-after-dispatch", 3 + dispatched, said)
        yield Point("input-on-meta", 2, said)
        yield Point("hooks-removed", 1, said)


def _copied_from(trace: Trace, said: str) -> Iterator[Point]:
    """The libraries whose frames tell what was being done."""
    if trace.passes("safetensors/torch.py", "torch/serialization.py") or trace.calls(
        "save_pretrained", "save_file", "save_model"
    ):
        yield Point("saving-offloaded-model", 10, "a state dict with placeholders was being saved")
    if trace.passes("/peft/"):
        yield Point("adapter-on-offloaded-base", 8, f"{said} inside PEFT")
    if trace.passes("/bitsandbytes/"):
        yield Point("quantization-state-lost", 8, f"{said} inside bitsandbytes: the quantization state is on meta")
    if trace.passes("deepspeed/inference") or trace.calls("init_inference"):
        yield Point("never-materialised", 9, "DeepSpeed's inference engine got a model that holds no data")
    elif trace.passes("/deepspeed/", "torch/distributed/fsdp"):
        yield Point("distributed-loader-conflict", 8, f"{said} while DeepSpeed or FSDP prepared the model")
    if trace.passes("sentence_transformers") and not trace.passes("threading.py", "concurrent/futures"):
        yield Point("concurrent-load", 3, "sentence-transformers moves a model right after building it")
    site = trace.site
    yield from _state_dict_read(trace)
    walked = site is not None and re.search(
        r"param(?:eter)?s?\b.*\.(?:to|cpu|float|data|clone)|\.(?:tolist|numpy|norm|abs)\(", site.code
    )
    if walked or trace.passes("llmcompressor", "auto_gptq", "gptqmodel", "/awq/", "transformer_lens", "auto_round"):
        yield Point("weight-used-outside-hook", 6, "library code walked the parameters and read their values")
    if (
        site is not None
        and _TO_MODEL_DEVICE.search(site.code)
        and re.search(r"ids|inputs|tokens|mask|pixel|embeds", site.code)
    ):
        yield Point("input-on-meta", 7, f"inputs were sent to the model's device: {site.code}")


def _state_dict_read(trace: Trace) -> Iterator[Point]:
    code = trace.site.code if trace.site else trace.report.text
    line = next((line.strip() for line in code.splitlines() if _STATE_DICT.search(line)), None)
    if line is not None:
        yield Point("saving-offloaded-model", 8, f"the values of a state dict were asked for: {line}")


def value_points(trace: Trace) -> Iterator[Point]:
    said = "the value of a meta tensor was asked for"
    built = any(
        f.function.rpartition(".")[2] in ("__init__", "post_init", "_init_weights", "build", "setup")
        for f in trace.frames[1:]
    )
    if built or trace.loading:
        yield Point("constructor-on-meta", 9 if built else 6, f"{said} while the model was built")
    if trace.calls("resize_token_embeddings", "_resize_token_embeddings", "load_textual_inversion"):
        yield Point("weight-used-outside-hook", 12, "the embedding was resized while its weight is offloaded")
    yield from _state_dict_read(trace)
    if trace.passes("generation/"):
        yield Point("input-on-meta", 6, f"{said} in generate(), which reads the inputs")
        yield Point("never-materialised", 4, f"{said} in generate()")
    if not trace.frames:
        yield Point("constructor-on-meta", 4, f"{said}; under transformers 5 most often by a model's own __init__")
    yield Point("weight-used-outside-hook", 4 if trace.auto_map or trace.offload_seen else 2, said)
    yield Point("never-materialised", 3, said)
    yield Point("input-on-meta", 2, said)
