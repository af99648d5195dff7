"""Questions about one error's text and frames: what it says, who called whom, and what was going on.

Works on a Report, so a pasted traceback and a live exception are read by the same rules. Standard library only.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from diag.diagnosis.evidence.report import Frame, Report
from diag.diagnosis.evidence.texts import (
    Mixed,
    is_copy_out_of_meta,
    is_value_of_meta,
    mixed_devices,
    needs_value,
    squash,
)

_CALLS = ("_call_impl", "_wrapped_call_impl", "__call__", "_slow_forward")
_MODULE_MOVES = ("to", "cuda", "cpu", "xpu", "npu", "half", "float", "bfloat16", "_apply", "convert")
_LOADS = ("from_pretrained", "_from_pretrained", "_load_pretrained_model", "from_config", "_from_config")
_META = re.compile(r"(?<![\w/-])meta(?![\w/-])", re.IGNORECASE)
_OFFLOADED = re.compile(
    r"becausetheywereoffloaded|offload_folder|offload_state_dict|cpu_offload\(|['\"]:['\"](?:disk|cpu)['\"]"
)
_AUTO_MAP = re.compile(r"device_map=(?:['\"]?(?:auto|balanced|sequential)|\{|device_map)|device_map['\"]?:['\"]auto")
_CHILD_WEIGHT = re.compile(r"\b(?:self\.|model\.|\w+\.)\w+(?:\[[^\]]+\])?(?:\.\w+)*\.(?:weight|bias|data)\b")
_OWN_WEIGHT = re.compile(r"\bself\.(?:weight|bias|gamma|beta|scale|g|a_2|b_2)\b")
_OWN_OTHER = re.compile(r"\bself\.(\w+)\b(?!\s*\()(?!\.)")
_MOVE = re.compile(r"\.(?:to|cuda|cpu|half|float|bfloat16|xpu|npu|mps|hpu)\(")


class WeightUse(Enum):
    """How the failing line used a weight that was on meta, as far as its code and the frames above show."""

    NOT_SHOWN = auto()
    AFTER_HOOK = auto()  # accelerate's hook ran right before, and still it was meta
    OF_ANOTHER_MODULE = auto()
    OUTSIDE_FORWARD = auto()
    OWN_WITHOUT_HOOK = auto()  # other hooks are in the trace, but none above this forward
    OF_A_CONTAINER = auto()  # a parameter that belongs to a module with children


@dataclass(frozen=True)
class Trace:
    """One report: what its last exception says, and what the frames tell."""

    report: Report

    # --- what the text says ---

    @cached_property
    def flat(self) -> str:
        return squash(self.report.text)

    @cached_property
    def message(self) -> str:
        """The last exception's message, or the whole text where there is none."""
        return (self.report.last and self.report.last.message) or self.report.text

    @cached_property
    def mixed(self) -> Mixed | None:
        return mixed_devices(self.message) or mixed_devices(self.report.text)

    @property
    def meets_meta(self) -> bool:
        """Meta met a real device in an operation of a model that ran, not in one that was being traced."""
        return self.mixed is not None and self.mixed.with_meta and not self.compiling

    @cached_property
    def copied_from_meta(self) -> bool:
        return is_copy_out_of_meta(self.report.text)

    @cached_property
    def copying_parameter(self) -> bool:
        """load_state_dict was given meta tensors as the source."""
        return self.copied_from_meta and self.says("whilecopyingtheparameternamed")

    @property
    def copies_meta(self) -> bool:
        return self.copied_from_meta and not self.copying_parameter

    @cached_property
    def value_asked(self) -> bool:
        return is_value_of_meta(self.report.text)

    @cached_property
    def needed_value(self) -> str:
        """The name of the tensor that a hook found no data for, or nothing."""
        return needs_value(self.report.text)

    @property
    def no_value_for(self) -> str:
        return f"accelerate found no data for a tensor called '{self.needed_value}' when it attached or removed a hook"

    @cached_property
    def missing_key(self) -> str:
        """The dotted name that a KeyError is about, or nothing."""
        last = self.report.last
        return last.message if last and last.name == "KeyError" and re.search(r"\w+\.\w+", last.message) else ""

    @property
    def is_ambiguous(self) -> bool:
        """The text is one of those about meta that several causes give."""
        return bool(self.mixed and self.mixed.with_meta) or self.copied_from_meta or self.value_asked

    @cached_property
    def is_about_meta(self) -> bool:
        mixed = mixed_devices(self.report.text)
        said = "\n".join(one.message for one in self.report.raised) if self.report.raised else self.report.text
        known = (mixed and (mixed.with_meta or not mixed.expected)) or self.copied_from_meta or self.value_asked
        return bool(known or _META.search(said))

    @property
    def order(self) -> str:
        """Which operand was on meta, in words."""
        mixed = self.mixed
        if mixed is None:
            return ""
        if not mixed.ordered:
            return f"one operand is on meta, another on {mixed.real}"
        if mixed.expected == "meta":
            return f"the first operand is on meta, a later one on {mixed.real}"
        return f"a later operand is on meta, the first one on {mixed.real}"

    def says(self, *texts: str) -> bool:
        """Whether the text, in lower case and without white space, holds one of these."""
        return any(text in self.flat for text in texts)

    @cached_property
    def offload_seen(self) -> bool:
        """Loading said that parameters were offloaded, or the map in the text holds cpu or disk."""
        return _OFFLOADED.search(self.flat) is not None

    @cached_property
    def dispatched(self) -> bool:
        """The text shows a load with a map, or its notice about offloading."""
        return self.offload_seen or _AUTO_MAP.search(self.flat) is not None

    # --- what the frames tell ---

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        return (self.report.last and self.report.last.frames) or self.report.frames

    def passes(self, *parts: str) -> bool:
        """Whether any frame's file holds one of these parts."""
        return any(part in frame.file for frame in self.frames for part in parts)

    def calls(self, *functions: str) -> bool:
        return any(frame.name in functions for frame in self.frames)

    @cached_property
    def compiling(self) -> bool:
        """torch.compile or export was at work; accelerate's hooks alone pass through two files of torch/_dynamo."""
        return self.passes("torch/_subclasses/fake", "torch/_export", "torch/export") or any(
            "torch/_dynamo/" in f.file and not f.inside("eval_frame.py", "external_utils.py", "decorators.py")
            for f in self.frames
        )

    @property
    def loading(self) -> bool:
        return self.calls(*_LOADS)

    @cached_property
    def site(self) -> Frame | None:
        """The line that failed: the last frame that is not PyTorch's own plumbing."""
        plumbing = ("/torch/", "_prims", "accelerate/hooks")
        kept = [f for f in self.frames if not any(part in f.file for part in plumbing)]
        return kept[-1] if kept else None

    @property
    def code(self) -> str:
        return self.site.code if self.site else ""

    @cached_property
    def moved_module(self) -> Frame | None:
        """The frame of a module's own .to(), .cpu() and the like; a tensor's has none."""
        moves = (f for f in reversed(self.frames) if f.inside("torch/nn/modules/module.py") and f.name in _MODULE_MOVES)
        return next(moves, None)

    @cached_property
    def moves_something(self) -> bool:
        """A module was moved, or a line in the trace calls .to(), .cpu() and the like."""
        return self.moved_module is not None or any(_MOVE.search(frame.code) for frame in self.frames)

    @property
    def forward_without_hook(self) -> bool:
        """A forward failed, and no offload hook is in the trace."""
        return self.site is not None and self.calls("forward") and not self.passes("accelerate/hooks.py")

    @cached_property
    def forward_called_directly(self) -> bool:
        """The forward that failed was called by name, not by calling the module: no hook can run then."""
        for above, frame in zip(reversed(self.frames[:-1]), reversed(self.frames[1:])):
            if frame.name == "forward":
                if not self.calls(*_CALLS) and ".forward(" not in above.code:
                    return False  # the frames between are hidden, as rich and sentry do
                if above.name == "forward" and above.file == frame.file:
                    continue  # a subclass that calls its parent's
                return above.name not in (*_CALLS, "new_forward", "decorate_context", "wrapper", "checkpoint")
        return False

    @cached_property
    def hook_right_above(self) -> bool:
        """accelerate's hook called the forward that failed."""
        kept = [f for f in self.frames if f.name not in _CALLS]
        for above, frame in zip(reversed(kept[:-1]), reversed(kept[1:])):
            if frame.name == "forward":
                return above.inside("accelerate/hooks.py")
        return False

    @cached_property
    def weight_use(self) -> WeightUse:
        if self.site is None:
            return WeightUse.NOT_SHOWN
        forward = next((f for f in reversed(self.frames) if f.name == "forward"), None)
        if forward is not None and "torch/nn/modules/" in forward.file and self.hook_right_above:
            return WeightUse.AFTER_HOOK
        if _CHILD_WEIGHT.search(self.code):
            return WeightUse.OF_ANOTHER_MODULE
        own = _OWN_WEIGHT.search(self.code)
        if self.site.function and self.site.name not in ("forward", "__call__") and not own:
            return WeightUse.OUTSIDE_FORWARD
        if not self.passes("accelerate/hooks.py"):
            return WeightUse.NOT_SHOWN
        if own:
            return WeightUse.AFTER_HOOK if self.hook_right_above else WeightUse.OWN_WITHOUT_HOOK
        return WeightUse.OF_A_CONTAINER if _OWN_OTHER.search(self.code) else WeightUse.NOT_SHOWN
