"""Questions about one report's frames and text: who called whom, and what was going on. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diag.diagnosis.evidence.report import Frame, Report
from diag.diagnosis.evidence.texts import squash

CALLS = ("_call_impl", "_wrapped_call_impl", "__call__", "_slow_forward")
MODULE_MOVES = ("to", "cuda", "cpu", "xpu", "npu", "half", "float", "bfloat16", "_apply", "convert")


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
        return bool(re.search(r"becausetheywereoffloaded|offload_folder|offload_state_dict|cpu_offload\("
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
                     and f.function.rpartition(".")[2] in MODULE_MOVES), None)  # fmt: skip

    @property
    def forward_called_directly(self) -> bool:
        """The forward that failed was called by name, not by calling the module: no hook can run then."""
        for above, frame in zip(reversed(self.frames[:-1]), reversed(self.frames[1:])):
            if frame.function.rpartition(".")[2] == "forward":
                if not self.calls(*CALLS) and ".forward(" not in above.code:
                    return False  # the frames between are hidden, as rich and sentry do
                name = above.function.rpartition(".")[2]
                if name == "forward" and above.file == frame.file:
                    continue  # a subclass that calls its parent's
                return name not in (*CALLS, "new_forward", "decorate_context", "wrapper", "checkpoint")
        return False

    @property
    def torch_forward(self) -> Frame | None:
        """The forward of one of PyTorch's own layers, where it is the last module that was called."""
        last = next((f for f in reversed(self.frames) if f.function.rpartition(".")[2] == "forward"), None)
        return last if last is not None and "torch/nn/modules/" in last.file else None

    @property
    def hook_right_above(self) -> bool:
        """accelerate's hook called the forward that failed."""
        kept = [f for f in self.frames if f.function.rpartition(".")[2] not in CALLS]
        for above, frame in zip(reversed(kept[:-1]), reversed(kept[1:])):
            if frame.function.rpartition(".")[2] == "forward" or frame.function == "forward":
                return above.inside("accelerate/hooks.py")
        return False
