"""Reads a live exception after the fact: the same report as for text, and which module and tensor it was about.

PyTorch's texts name no module. The traceback still holds the frames, so the deepest module is found by identity among
the model's names. Nothing is run again, and nothing of a frame is kept.
"""

from __future__ import annotations

import inspect
import itertools
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from diag.diagnosis.evidence import CallSite
from diag.diagnosis.evidence.lines import Step, steps, values_on_line
from diag.diagnosis.evidence.operands import has_stranger_on_meta, placeholders
from diag.diagnosis.evidence.report import Frame, Raised, Report

_PLUMBING = (
    "/torch/_ops.py",
    "/torch/_prims",
    "/torch/_decomp",
    "/torch/_refs",
    "/torch/utils/_",
    "/torch/overrides.py",
)
_CALLS_OF_A_MODEL = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "new_forward", "generate", "chat",
                     "encode", "sample", "predict", "get_image_features", "get_text_features")  # fmt: skip
_CALLERS = ("_call_impl", "_wrapped_call_impl", "new_forward", "pre_forward", "init_hook", "detach_hook")


def chain_of(error: BaseException) -> list[BaseException]:
    """The exception and what it came from, the first cause first."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return found[::-1]


def report_of(error: BaseException, notes: tuple[str, ...] = ()) -> Report:
    """The exception as a Report, for the rules that read text."""
    raised = []
    for one in chain_of(error):
        frames = tuple(
            Frame(s.filename.replace("\\", "/"), s.lineno or 0, s.name, (s.line or "").strip())
            for s in traceback.extract_tb(one.__traceback__)
        )
        raised.append(Raised(type(one).__name__, str(one), frames))
    text = "\n".join([*notes, *(line for item in raised for line in _as_python_prints(item))])
    return Report(tuple(raised), text)


def _as_python_prints(item: Raised) -> Iterator[str]:
    for frame in item.frames:
        yield f'  File "{frame.file}", line {frame.line}, in {frame.function}'
        yield f"    {frame.code}"
    yield f"{item.kind}: {item.message}"


def model_in(error: BaseException) -> nn.Module | None:
    """The largest module in the frames that holds the deepest one: the model, when nobody handed it over.

    Looks at local variables and one level below them, as in `self.model` of a pipeline or a service.
    """
    frames = [step.frame for step in _steps(error)]
    deepest = next((m for f in reversed(frames) if (m := _self_module(f)) is not None), None)
    seen = {id(m): m for frame in frames for m in _modules_near(frame)}
    if deepest is None:
        return max(seen.values(), key=_size, default=None)
    return max((m for m in seen.values() if any(part is deepest for part in m.modules())), key=_size, default=deepest)


def _modules_near(frame: types.FrameType) -> Iterator[nn.Module]:
    for value in list(frame.f_locals.values()):
        if isinstance(value, nn.Module):
            yield value
        elif not isinstance(value, (type, types.ModuleType)):
            held = getattr(value, "__dict__", None)
            if isinstance(held, dict):
                yield from (item for item in list(held.values())[:200] if isinstance(item, nn.Module))


def _size(module: nn.Module) -> int:
    return sum(1 for _ in module.modules())


def locate(error: BaseException, model: nn.Module) -> CallSite:
    """Module path, tensors that the failing line read, and inputs on meta."""
    names = {id(module): path for path, module in model.named_modules()}
    walked = list(_steps(error))
    frames = [step.frame for step in walked]
    module, frame = _deepest(frames, names)
    read = _tensors_read(walked, frame, model)
    inputs = list(_inputs(frames, model, names))
    owners = {name.rpartition(".")[0] for name in read}
    path = names[id(module)] if module is not None else ""
    return CallSite(
        module=path if module is not None else "",
        module_class=type(module).__name__ if module is not None else "",
        tensors=tuple(read),
        own_forward=not owners or (owners == {path} and frame is not None and _self_module(frame) is module),
        inputs_on_meta=tuple(name for name, device in inputs if device == "meta"),
        inputs=tuple(inputs),
        placeholders=tuple(placeholders(walked, model)),
        fed_meta=frame is not None and has_stranger_on_meta(frame, model),
        root_class=type(model).__name__,
    )


def locate_in(error: BaseException, parts: list[tuple[str, nn.Module]]) -> CallSite | None:
    """The same for a pipeline: of its component that was running, with the component's prefix before every name."""
    frames = [step.frame for step in _steps(error)]
    for frame in reversed(frames):
        running = _self_module(frame)
        for prefix, part in parts:
            if any(module is running for module in part.modules()):
                return _prefixed(locate(error, part), prefix)
    return locate(error, parts[0][1]) if len(parts) == 1 else None


def _prefixed(trace: CallSite, prefix: str) -> CallSite:
    return replace(
        trace,
        component=prefix,
        module=f"{prefix}{trace.module}".rstrip("."),
        tensors=tuple(f"{prefix}{name}" for name in trace.tensors),
        placeholders=tuple(f"{prefix}{name}" for name in trace.placeholders),
    )


def _steps(error: BaseException) -> Iterator[Step]:
    for one in chain_of(error):
        yield from steps(one.__traceback__)


def _self_module(frame: types.FrameType) -> nn.Module | None:
    for name in ("self", "module"):
        value = frame.f_locals.get(name)
        if isinstance(value, nn.Module):
            return value
    return None


def _deepest(
    frames: list[types.FrameType], names: Mapping[int, str]
) -> tuple[nn.Module | None, types.FrameType | None]:
    for frame in reversed(frames):
        module = _self_module(frame)
        if module is not None and id(module) in names:
            return module, frame
    for frame in reversed(frames):
        for value in list(frame.f_locals.values()):
            if isinstance(value, nn.Module) and names.get(id(value)):
                return value, frame
    return None, None


def _tensors_read(walked: list[Step], frame: types.FrameType | None, model: nn.Module) -> list[str]:
    """Names of the model's meta tensors that the failing lines read, the deepest line with any first."""
    known = {id(t): n for n, t in itertools.chain(model.named_parameters(), model.named_buffers())}
    for step in reversed(walked):
        one = step.frame
        if any(part in one.f_code.co_filename.replace("\\", "/") for part in _PLUMBING):
            continue
        read = [known[id(t)] for t in values_on_line(step) if id(t) in known and t.is_meta]
        read += [
            known[id(v)]
            for v in list(one.f_locals.values())
            if isinstance(v, torch.Tensor) and v.is_meta and id(v) in known
        ]
        if read:
            return list(dict.fromkeys(read))
        if one is frame and one.f_code.co_name not in _CALLERS:
            break
    return []


def _inputs(frames: list[types.FrameType], model: nn.Module, names: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Names and devices of the arguments of the outermost call into the model."""
    known = {id(t) for t in itertools.chain(model.parameters(), model.buffers())}
    for frame in frames:
        module = _self_module(frame)
        if module is None or id(module) not in names or frame.f_code.co_name not in _CALLS_OF_A_MODEL:
            continue
        positions = _positions(module)
        for name, value in _arguments(frame):
            if isinstance(value, torch.Tensor) and id(value) not in known:
                yield positions.get(name, name), str(value.device)
        return


def _positions(module: nn.Module) -> dict[str, str]:
    """`args[0]` of a call as the name that the module's forward gives it."""
    try:
        names = list(inspect.signature(type(module).forward).parameters)[1:]
    except (TypeError, ValueError):
        return {}
    return {f"args[{n}]": name for n, name in enumerate(names)}


def _arguments(frame: types.FrameType) -> Iterator[tuple[str, Any]]:
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    for name in code.co_varnames[:count]:
        value = frame.f_locals.get(name)
        if isinstance(value, Mapping):
            yield from ((str(key), item) for key, item in value.items())
        elif isinstance(value, (tuple, list)):
            yield from ((f"{name}[{n}]", item) for n, item in enumerate(value))
        else:
            yield name, value
