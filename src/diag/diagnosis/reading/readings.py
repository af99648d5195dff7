"""Where a text alone has several causes, the frames decide: who called whom, and what the failing line read.

Works on a Report, so a pasted traceback and a live exception are read by the same rules. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from diag.diagnosis.evidence.report import Frame, Report
from diag.diagnosis.evidence.texts import (
    Mixed,
    is_about_devices,
    is_copy_out_of_meta,
    is_value_of_meta,
    mixed_devices,
    needs_value,
)
from diag.diagnosis.evidence.trace import Trace
from diag.diagnosis.reading.point import Point
from diag.diagnosis.reading.readings_copy import copy_points, value_points

_CHAIN = 8  # exceptions of one chain that are read
_CHILD_WEIGHT = re.compile(r"\b(?:self\.|model\.|\w+\.)\w+(?:\[[^\]]+\])?(?:\.\w+)*\.(?:weight|bias|data)\b")
_OWN_WEIGHT = re.compile(r"\bself\.(?:weight|bias|gamma|beta|scale|g|a_2|b_2)\b")
_WEIGHT_NAME = re.compile(
    r"(?<![\w/])\w+(?:\.\w+)*\.(?:weight|bias|inv_freq|running_(?:mean|var)|absmax|SCB|gamma|beta|lora_[AB]\S*)(?!\w)"
    r"|\w\.(?:layers?|h|blocks?|block)\.\d+\."
)
_OWN_OTHER = re.compile(r"\bself\.(\w+)\b(?!\s*\()(?!\.)")


def read_points(report: Report) -> list[Point]:
    """All points that frames and wordings give, of the exception that says most."""
    return _best(report)[1]


def deciding(report: Report) -> Report:
    """The report with the exception last that says most: a service raises its own over the one that matters."""
    return _best(report)[0]


def _best(report: Report) -> tuple[Report, list[Point]]:
    """Of exceptions that were raised over one another, the one with the strongest reading; equal ones: the last."""
    turned = [replace(report, raised=(*report.raised[:n], *report.raised[n + 1 :], report.raised[n]))
              for n in range(len(report.raised))][::-1][:_CHAIN] or [report]  # fmt: skip
    ours = [one for one in turned if one.last and is_about_devices(one.last.message)]
    read = [(one, list(_points_of(one))) for one in ours or turned]
    return max(read, key=lambda pair: max((point.points for point in pair[1]), default=0))


def _points_of(report: Report) -> Iterator[Point]:
    trace = Trace(report)
    text = report.last.message if report.last and report.last.message else report.text
    mixed = mixed_devices(text) or mixed_devices(report.text)
    if mixed and mixed.with_meta:
        yield from _meta_and_real(trace, mixed)
    elif mixed:
        yield from _two_real(trace, mixed)
    if is_copy_out_of_meta(report.text):
        yield from copy_points(trace)
    if is_value_of_meta(report.text):
        yield from value_points(trace)
    if needs_value(report.text):
        yield from _need_value(trace, needs_value(report.text))
    if (mixed and mixed.with_meta) or is_copy_out_of_meta(report.text) or is_value_of_meta(report.text):
        yield from _from_words(trace)
    yield from _keys_and_files(trace)
    yield from _from_frames(trace)


def _meta_and_real(trace: Trace, mixed: Mixed) -> Iterator[Point]:
    order = _order_in_words(mixed)
    if trace.compiling:
        yield Point("compiled-hooks", 9, "the mix was met while torch.compile traced the model")
        return
    if trace.passes("opacus", "functorch") or (
        trace.calls("backward") and not trace.auto_map and not trace.offload_seen
    ):
        yield Point(
            "unknown", 7, "it was raised in a backward pass or by a per-sample-gradient library, not in a forward"
        )
    site, code = trace.site, trace.site.code if trace.site else ""
    if trace.passes("/peft/") or "lora_" in code:
        yield Point("adapter-on-offloaded-base", 8, f"{order}, inside an adapter's forward")
    yield from _read_outside(trace, site, code, order)
    no_hook = bool(site) and not trace.passes("accelerate/hooks.py")
    if no_hook and trace.frames and trace.calls("forward"):
        lost = 4 if trace.offload_seen or trace.auto_map else 1
        yield Point("hooks-removed", 2 + lost, f"{order}, and no offload hook is in the trace")
        yield Point("never-materialised", 6 - lost, f"{order}, and no offload hook is in the trace")
    base = {"forward-bypasses-hook": 3, "weight-used-outside-hook": 3, "hooks-removed": 3, "never-materialised": 3}
    if mixed.ordered and mixed.expected == "meta":
        base["hooks-removed"] += 1  # a norm's `self.weight * x`: the usual first failure of stranded weights
    if mixed.ordered and mixed.expected != "meta":
        base["weight-used-outside-hook"] += 1  # `x + weight`, `where(mask, weight, x)`: the most reported form
    if re.search(r"uvicorn|gunicorn|http/1\.[01]500|internalservererror", trace.flat):
        base["concurrent-calls"] = 3
    for cause, points in base.items():
        offloaded = cause != "never-materialised"
        yield Point(cause, points + (1 if offloaded and (trace.offload_seen or trace.auto_map) else 0), order)


def _read_outside(trace: Trace, site: Frame | None, code: str, order: str) -> Iterator[Point]:
    """A weight read from outside its own module's forward, or a module whose hook was passed by."""
    if site is None:
        return
    if trace.forward_called_directly:
        yield Point(
            "forward-bypasses-hook",
            7,
            f"{order}; the forward was called directly, and a hook only runs when the module is called",
        )
    if trace.torch_forward is not None and trace.hook_right_above:
        yield from _hook_ran(trace, order)
    elif _CHILD_WEIGHT.search(code):
        yield Point("weight-used-outside-hook", 7, f"{order}; the failing line reads another module's weight: {code}")
    elif (
        site.function
        and site.function.rpartition(".")[2] not in ("forward", "__call__")
        and not _OWN_WEIGHT.search(code)
    ):
        yield Point(
            "weight-used-outside-hook", 3, f"{order}; the failing line is in {site.function}(), not in a forward"
        )
    elif trace.passes("accelerate/hooks.py") and _OWN_WEIGHT.search(code):
        if trace.hook_right_above:
            yield from _hook_ran(trace, order)
        else:
            yield Point(
                "forward-bypasses-hook",
                6,
                f"{order}; other hooks are in the trace, but none above this forward: {code}",
            )
    elif trace.passes("accelerate/hooks.py") and _OWN_OTHER.search(code):
        yield Point("weight-used-outside-hook", 5, f"{order}; the line reads a parameter of a container: {code}")
    if trace.passes("/diffusers/") and (trace.offload_seen or trace.passes("accelerate/hooks.py")):
        yield Point("weight-used-outside-hook", 3, "a diffusers model under sequential offload")


def _hook_ran(trace: Trace, order: str) -> Iterator[Point]:
    served = trace.passes("concurrent/futures/thread.py", "threading.py", "anyio/", "starlette/", "uvicorn")
    says = f"{order}; a hook ran right before, and still the weight was meta, as when threads call it at once"
    yield Point("concurrent-calls", 9 if served else 6, says)
    yield Point("forward-bypasses-hook", 2, f"{order}; a hook ran right before, and still the weight was meta")


def _order_in_words(mixed: Mixed) -> str:
    if not mixed.ordered:
        return f"one operand is on meta, another on {mixed.real}"
    if mixed.expected == "meta":
        return f"the first operand is on meta, a later one on {mixed.real}"
    return f"a later operand is on meta, the first one on {mixed.real}"


def _two_real(trace: Trace, mixed: Mixed) -> Iterator[Point]:
    pair = f": {mixed.expected} and {mixed.other}" if mixed.expected else ""
    if trace.compiling:
        yield Point("compiled-hooks", 9, "the mix was met while torch.compile traced the model")
    yield Point(
        "device-mismatch",
        10 if mixed.expected else 7,
        f"two real devices met in one operation{pair}; nothing is on meta",
    )
    rotary = re.search(r"rotary|inv_freq", " ".join(f"{f.function} {f.code}" for f in trace.frames) + trace.flat)
    if rotary and re.search(
        r"device_map=(?!['\"]?(?:auto|balanced|sequential|cuda))|rotary_emb['\"]:|split_model|custom.{0,20}device_?map|\}",
        trace.flat,
    ):
        yield Point(
            "device-map-incomplete",
            9,
            "the rotary embedding's buffer is on another device than its layer, under a map written by hand",
        )
    elif rotary:
        yield Point("device-map-incomplete", 4, "the rotary embedding's buffer is on another device than its layer")


def _need_value(trace: Trace, name: str) -> Iterator[Point]:
    said = f"accelerate found no data for a tensor called '{name}' when it attached or removed a hook"
    tied = trace.says("tie_word_embeddings", "tie_weights", "tied") or trace.says("lm_head")
    yield Point("missing-weight-data", 6, said)
    yield Point("tied-weights-split", 7 if tied else 3, said)
    unfilled = trace.says(
        "load_in_4bit", "bnb_4bit", "fsdp", "init_empty_weights", "low_cpu_mem_usage=false", "force_hooks"
    )
    yield Point("never-materialised", 8 if unfilled else 4, said)
    if trace.passes("/peft/"):
        yield Point("adapter-on-offloaded-base", 9, f"{said}, while PEFT dispatched the model again")


_WORDS = (
    (
        "adapter-on-offloaded-base",
        r"peftmodel|get_peft_model|merge_and_unload|load_adapter|lora|adapter_model",
        "an adapter is part of it",
    ),
    ("distributed-loader-conflict", r"deepspeed|zero-?_?3|fsdp|ram_efficient", "DeepSpeed or FSDP is part of it"),
    (
        "never-materialised",
        r"init_inference|init_empty_weights|device_map=['\"]meta",
        "the model was built without data",
    ),
    (
        "saving-offloaded-model",
        r"save_pretrained|save_file|safetensors?save|torch\.save|state_dict\(\).*sav",
        "a model is being saved",
    ),
    (
        "concurrent-load",
        r"threadpool|severalthreads|multi-?thread|concurrent(?:ly|request)|threading\.thread",
        "several threads are at work",
    ),
    ("quantization-state-lost", r"quant_state|params4bit|absmax", "the state of a 4-bit weight is named"),
    ("hooks-removed", r"remove_hook|remove_all_hooks|afterremovinghooks", "offload hooks were taken off"),
    (
        "moved-after-dispatch",
        r"enable_model_cpu_offload.*\.to\(|(?:model|pipe|pipeline|unet|transformer|vae|encoder|decoder)\.cpu\(\)",
        "a model was moved",
    ),
    ("training-offloaded-layers", r"sfttrainer|optimizer\.step|trainer\.train\(", "a training loop is part of it"),
    (
        "input-on-meta",
        r"compel|send_to_device|lpw_stable|\.to\(model\.device\)",
        "inputs were sent to the model's device",
    ),
)


def _from_words(trace: Trace) -> Iterator[Point]:
    """What the text around an ambiguous message names: weaker than frames, stronger than nothing."""
    for cause, pattern, says in _WORDS:
        if re.search(pattern, trace.flat):
            yield Point(cause, 4, says)


def _keys_and_files(trace: Trace) -> Iterator[Point]:
    last = trace.report.last
    message = last.message if last else ""
    offload = trace.passes("accelerate/utils/offload.py", "accelerate/hooks.py")
    if last and last.name == "KeyError" and re.search(r"\w+\.\w+", message):
        if "base_model." in message or trace.passes("/peft/"):
            yield Point(
                "adapter-on-offloaded-base", 11, f"PEFT looked for the offloaded tensor {message} under its own name"
            )
        if offload or _WEIGHT_NAME.search(message):
            yield Point("missing-weight-data", 10 if offload else 6, f"the offload index has no tensor {message}")
    gone = re.search(r"\.(?:safetensors|dat|bin)\b|index\.json", message) and "nosuchfile" in trace.flat
    if last and gone:
        forward = trace.calls("pre_forward", "__getitem__", "generate") or offload
        yield Point("missing-weight-data", 10 if forward else 4, "the file that backs offloaded weights is gone")
    if trace.says("defaultprocessgrouphasnotbeeninitialized"):
        no_map = trace.passes("accelerate/utils/modeling.py") or trace.calls(
            "load_checkpoint_in_model", "load_checkpoint_and_dispatch"
        )
        yield Point(
            "missing-weight-data",
            9 if no_map else 2,
            "accelerate's load without a map goes through torch.distributed when a key is missing",
        )
        yield Point("distributed-loader-conflict", 4, "distributed code ran without a process group")


def _from_frames(trace: Trace) -> Iterator[Point]:
    """What the frames say whatever the text."""
    about_meta = trace.says("meta")
    threads = trace.passes("concurrent/futures/thread.py", "threading.py", "multiprocessing/pool.py")
    if about_meta and trace.loading and (threads or trace.says("threadpoolexecutor")):
        yield Point("concurrent-load", 11, "a model was loaded in a thread")
    if trace.passes("/peft/") and trace.calls("dispatch_model", "merge_and_unload", "load_adapter", "_update_offload"):
        yield Point("adapter-on-offloaded-base", 4, "PEFT handled a dispatched base model")
    if trace.compiling and trace.passes("accelerate/hooks.py"):
        yield Point("compiled-hooks", 6, "torch.compile traced into accelerate's hooks")
    if trace.says("weneedan`offload_dir`", "offload_dir`todispatch") and (
        trace.says("base_model.") or trace.passes("/peft/")
    ):
        yield Point("adapter-on-offloaded-base", 12, "the modules to offload are PEFT's: it dispatches the base again")
    if trace.says("`.to`isnotsupportedfor") and trace.passes("accelerate/big_modeling.py"):
        yield Point(
            "environment-mismatch",
            12,
            "accelerate itself called .to() while dispatching: versions that do not fit together",
        )
    if (
        about_meta
        and trace.calls("train", "training_step", "_inner_training_loop")
        and trace.says("load_in_4bit", "4bit", "4-bit")
    ):
        yield Point("training-offloaded-layers", 8, "a 4-bit model that is partly on meta was being trained")
