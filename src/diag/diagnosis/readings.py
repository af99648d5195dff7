"""Where a text alone has several causes, the frames decide: who called whom, and what the failing line read.

Works on a Report, so a pasted traceback and a live exception are read by the same rules. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from diag.diagnosis.report import Frame, Report
from diag.diagnosis.texts import (
    Mixed,
    is_copy_out_of_meta,
    is_value_of_meta,
    mixed_devices,
    needs_value,
    squash,
)


@dataclass(frozen=True)
class Point:
    """So many points for a cause, and the sentence that says why."""

    cause: str
    points: int
    says: str


_CALLS = ("_call_impl", "_wrapped_call_impl", "__call__", "_slow_forward")
_MODULE_MOVES = ("to", "cuda", "cpu", "xpu", "npu", "half", "float", "bfloat16", "_apply", "convert")
_CHILD_WEIGHT = re.compile(r"\b(?:self\.|model\.|\w+\.)\w+(?:\[[^\]]+\])?(?:\.\w+)*\.(?:weight|bias|data)\b")
_OWN_WEIGHT = re.compile(r"\bself\.(?:weight|bias|gamma|beta|scale|g|a_2|b_2)\b")
_OWN_OTHER = re.compile(r"\bself\.(\w+)\b(?!\s*\()(?!\.)")
_TO_MODEL_DEVICE = re.compile(
    r"\.to\(\s*(?:device=)?(?:self\.)?(?:\w+\.)*(?:device|parameters\(\)\)\.device)\s*[,)]|to_device\("
)
_MOVE = re.compile(r"\.(?:to|cuda|cpu|half|float|bfloat16|xpu|npu|mps|hpu)\(")


@dataclass(frozen=True)
class Trace:
    """Questions about one report's frames and text."""

    report: Report

    @property
    def frames(self) -> tuple[Frame, ...]:
        return self.report.last.frames if self.report.last and self.report.last.frames else self.report.frames

    @property
    def flat(self) -> str:
        return squash(self.report.text)

    def passes(self, *parts: str) -> bool:
        """Whether any frame's file holds one of these parts."""
        return any(part in frame.file for frame in self.frames for part in parts)

    def calls(self, *functions: str) -> bool:
        return any(frame.function.rpartition(".")[2] in functions for frame in self.frames)

    def says(self, *texts: str) -> bool:
        return any(text in self.flat for text in texts)

    @property
    def offload_seen(self) -> bool:
        """Loading said that parameters were offloaded, or the map in the text holds cpu or disk."""
        return bool(re.search(r"becausetheywereoffloaded|offload_folder|offload_state_dict|sequential_cpu_offload|cpu_offload\("
                              r"|['\"]:['\"](?:disk|cpu)['\"]", self.flat))  # fmt: skip

    @property
    def auto_map(self) -> bool:
        return bool(
            re.search(
                r"device_map=(?:['\"]?(?:auto|balanced|sequential)|\{|device_map)|device_map['\"]?:['\"]auto", self.flat
            )
        )

    @property
    def compiling(self) -> bool:
        """torch.compile or export was at work; accelerate's hooks alone pass through two files of torch/_dynamo."""
        return self.passes("torch/_subclasses/fake", "torch/_export", "torch/export") or any(
            "torch/_dynamo/" in f.file and not f.inside("eval_frame.py", "external_utils.py", "decorators.py")
            for f in self.frames
        )

    @property
    def loading(self) -> bool:
        return self.calls(
            "from_pretrained", "_from_pretrained", "_load_pretrained_model", "from_config", "_from_config"
        )

    @property
    def site(self) -> Frame | None:
        """The line that failed: the last frame that is not PyTorch's own plumbing."""
        kept = [
            f
            for f in self.frames
            if "/torch/" not in f.file and "_prims" not in f.file and "accelerate/hooks" not in f.file
        ]
        return kept[-1] if kept else None

    @property
    def moved_module(self) -> Frame | None:
        """The frame of a module's own .to(), .cpu() and the like; a tensor's has none."""
        return next((f for f in reversed(self.frames) if f.inside("torch/nn/modules/module.py")
                     and f.function.rpartition(".")[2] in _MODULE_MOVES), None)  # fmt: skip

    @property
    def forward_called_directly(self) -> bool:
        """The forward that failed was called by name, not by calling the module: no hook can run then."""
        for above, frame in zip(reversed(self.frames[:-1]), reversed(self.frames[1:])):
            if frame.function.rpartition(".")[2] == "forward":
                name = above.function.rpartition(".")[2]
                if name == "forward" and above.file == frame.file:
                    continue  # a subclass that calls its parent's
                return name not in (*_CALLS, "new_forward", "decorate_context", "wrapper", "checkpoint")
        return False

    @property
    def hook_right_above(self) -> bool:
        """accelerate's hook called the forward that failed."""
        kept = [f for f in self.frames if f.function.rpartition(".")[2] not in _CALLS]
        for above, frame in zip(reversed(kept[:-1]), reversed(kept[1:])):
            if frame.function.rpartition(".")[2] == "forward" or frame.function == "forward":
                return above.inside("accelerate/hooks.py")
        return False


def read_points(report: Report) -> Iterator[Point]:
    """All points that frames and wordings give."""
    trace = Trace(report)
    text = report.last.message if report.last and report.last.message else report.text
    mixed = mixed_devices(text) or mixed_devices(report.text)
    if mixed and mixed.with_meta:
        yield from _meta_and_real(trace, mixed)
    elif mixed:
        yield from _two_real(trace, mixed)
    if is_copy_out_of_meta(report.text):
        yield from _copy(trace)
    if is_value_of_meta(report.text):
        yield from _value(trace)
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
    if _CHILD_WEIGHT.search(code):
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
            yield Point("forward-bypasses-hook", 2, f"{order}; a hook ran right before, and still the weight was meta")
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


def _order_in_words(mixed: Mixed) -> str:
    if not mixed.ordered:
        return f"one operand is on meta, another on {mixed.real}"
    if mixed.expected == "meta":
        return f"the first operand is on meta, a later one on {mixed.real}"
    return f"a later operand is on meta, the first one on {mixed.real}"


def _two_real(trace: Trace, mixed: Mixed) -> Iterator[Point]:
    pair = f"{mixed.expected} and {mixed.other}" if mixed.expected else "two devices"
    if trace.compiling:
        yield Point("compiled-hooks", 9, "the mix was met while torch.compile traced the model")
    yield Point(
        "device-mismatch",
        10 if mixed.expected else 7,
        f"two real devices met in one operation: {pair}; nothing is on meta",
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


def _copy(trace: Trace) -> Iterator[Point]:
    said = "a meta tensor was to be copied to a real device"
    if trace.says("whilecopyingtheparameternamed"):
        spread = 4 if trace.says("deepspeed", "fsdp", "zero3", "rank", "torchrun", "accelerate/commands/launch") else 0
        yield Point(
            "distributed-loader-conflict",
            5 + spread,
            "load_state_dict was given meta tensors as the source, as ranks other than 0 get",
        )
        yield Point("never-materialised", 5, "load_state_dict was given meta tensors as the source")
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
    if site is not None and "state_dict" in site.code:
        yield Point("saving-offloaded-model", 8, f"the values of a state dict were asked for: {site.code}")
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


def _value(trace: Trace) -> Iterator[Point]:
    said = "the value of a meta tensor was asked for"
    built = any(
        f.function.rpartition(".")[2] in ("__init__", "post_init", "_init_weights", "build", "setup")
        for f in trace.frames[1:]
    )
    if built or trace.loading:
        yield Point("constructor-on-meta", 9 if built else 6, f"{said} while the model was built")
    if trace.calls("resize_token_embeddings", "_resize_token_embeddings", "load_textual_inversion"):
        yield Point("weight-used-outside-hook", 12, "the embedding was resized while its weight is offloaded")
    if trace.passes("generation/"):
        yield Point("input-on-meta", 6, f"{said} in generate(), which reads the inputs")
        yield Point("never-materialised", 4, f"{said} in generate()")
    if not trace.frames:
        yield Point("constructor-on-meta", 4, f"{said}; under transformers 5 most often by a model's own __init__")
    yield Point("weight-used-outside-hook", 4 if trace.auto_map or trace.offload_seen else 2, said)
    yield Point("never-materialised", 3, said)
    yield Point("input-on-meta", 2, said)


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
    ("moved-after-dispatch", r"enable_model_cpu_offload.*\.to\(|(?<!tensor)\.cpu\(\)", "a model was moved"),
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
