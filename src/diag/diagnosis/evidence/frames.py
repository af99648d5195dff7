"""Reads a live exception after the fact: the same report as for text, and which module and tensor it was about.

PyTorch's texts name no module. The traceback still holds the frames, so the deepest module is found by identity among
the model's names. Nothing is run again, and nothing of a frame is kept.
"""

import inspect
import traceback
from collections.abc import Collection, Iterator, Mapping
from types import FrameType, ModuleType

import torch
from torch import nn

from diag.diagnosis.evidence import CallSite
from diag.diagnosis.evidence.lines import Call, calls, placeholders, values_on_line
from diag.diagnosis.evidence.report import Frame, Raised, Report
from diag.models.entries import Entry
from diag.models.snapshot import Snapshot

_PLUMBING = tuple(f"/torch/{part}" for part in "_ops.py _prims _decomp _refs utils/_ overrides.py".split())
_FORWARDS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "new_forward")
_CALLS_OF_A_MODEL = (*_FORWARDS, *"generate chat encode sample predict get_image_features get_text_features".split())
_CALLERS = ("_call_impl", "_wrapped_call_impl", "new_forward", "pre_forward", "init_hook", "detach_hook")


def _chain_of(error: BaseException) -> list[BaseException]:
    """The exception and what it came from, the first cause first."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return found[::-1]


def report_of(error: BaseException) -> Report:
    """The exception as a Report, for the rules that read text; the text is as Python prints it."""
    raised: list[Raised] = []
    lines: list[str] = []
    for one in _chain_of(error):
        read = [(s.filename.replace("\\", "/"), s) for s in traceback.extract_tb(one.__traceback__)]
        frames = tuple(Frame(file, s.lineno or 0, s.name, (s.line or "").strip()) for file, s in read)
        raised.append(Raised(type(one).__name__, str(one), frames))
        lines += (f'  File "{f.file}", line {f.line}, in {f.function}\n    {f.code}' for f in frames)
        lines.append(f"{type(one).__name__}: {one}")
    return Report(tuple(raised), "\n".join(lines))


def model_in(error: BaseException) -> nn.Module | None:
    """The largest module in the frames that holds the deepest one: the model, when nobody handed it over.

    Looks at local variables and one level below them, as in `self.model` of a pipeline or a service.
    """
    frames = [call.frame for call in _calls(error)]
    deepest = next((m for f in reversed(frames) if (m := _self_module(f)) is not None), None)
    seen = {id(m): m for frame in frames for m in _modules_near(frame)}
    holding = (m for m in seen.values() if deepest is None or any(part is deepest for part in m.modules()))
    return max(holding, key=lambda module: sum(1 for _ in module.modules()), default=deepest)


def _modules_near(frame: FrameType) -> Iterator[nn.Module]:
    for value in list(frame.f_locals.values()):
        if isinstance(value, nn.Module):
            yield value
        elif not isinstance(value, (type, ModuleType)):
            held = getattr(value, "__dict__", None)
            if isinstance(held, dict):
                yield from (item for item in list(held.values())[:200] if isinstance(item, nn.Module))


def locate(error: BaseException, snapshot: Snapshot) -> CallSite | None:
    """Module path, tensors that the failing line read, and inputs on meta.

    Of a pipeline the component that was running, with its prefix before every name; None where none was.
    """
    walked = list(_calls(error))
    frames = [call.frame for call in walked]
    part = _part_running(frames, snapshot)
    if part is None:
        return None
    prefix, root = part
    paths = {key: path for key, path in snapshot.paths.items() if f"{path}.".startswith(prefix)}
    known = {key: e for key, e in snapshot.distinct.items() if e.name.startswith(prefix) and e.kind != "quant_state"}
    module, frame = _deepest(frames, paths)
    read = _tensors_read(walked, frame, known)
    inputs = tuple(_inputs(frames, paths, known))
    path = "" if module is None else paths[id(module)]
    owners = {name.rpartition(".")[0] for name in read}
    own_names = {entry.name.removeprefix(prefix): entry.tensor for entry in known.values()}
    local = [] if frame is None else [v for v in list(frame.f_locals.values()) if isinstance(v, torch.Tensor)]
    return CallSite(
        module=path,
        tensors=tuple(read),
        own_forward=not owners or (owners == {path} and frame is not None and _self_module(frame) is module),
        inputs_on_meta=tuple(name for name, device in inputs if device == "meta"),
        inputs=inputs,
        placeholders=tuple(f"{prefix}{name}" for name in placeholders(walked, own_names)),
        fed_meta=any(value.is_meta and id(value) not in known for value in local),
        root_class=type(root).__name__,
        component=prefix,
    )


def _part_running(frames: list[FrameType], snapshot: Snapshot) -> tuple[str, nn.Module] | None:
    """The component that was running, the deepest first; the model itself where there is only one."""
    for frame in reversed(frames):
        path = snapshot.paths.get(id(_self_module(frame)))
        for prefix, part in snapshot.parts if path is not None else ():
            if f"{path}.".startswith(prefix):
                return prefix, part
    return snapshot.parts[0] if len(snapshot.parts) == 1 else None


def _calls(error: BaseException) -> Iterator[Call]:
    for one in _chain_of(error):
        yield from calls(one.__traceback__)


def _self_module(frame: FrameType) -> nn.Module | None:
    held = (frame.f_locals.get(name) for name in ("self", "module"))
    return next((value for value in held if isinstance(value, nn.Module)), None)


def _deepest(frames: list[FrameType], names: Mapping[int, str]) -> tuple[nn.Module | None, FrameType | None]:
    for frame in reversed(frames):
        module = _self_module(frame)
        if module is not None and id(module) in names:
            return module, frame
    for frame in reversed(frames):
        for value in list(frame.f_locals.values()):
            if isinstance(value, nn.Module) and names.get(id(value)):
                return value, frame
    return None, None


def _tensors_read(walked: list[Call], frame: FrameType | None, known: Mapping[int, Entry]) -> list[str]:
    """Names of the model's meta tensors that the failing lines read, the deepest line with any first."""
    for call in reversed(walked):
        one = call.frame
        if any(part in one.f_code.co_filename.replace("\\", "/") for part in _PLUMBING):
            continue
        held = (value for value in list(one.f_locals.values()) if isinstance(value, torch.Tensor))
        seen = [known[id(t)] for t in (*values_on_line(call), *held) if id(t) in known]
        read = [entry.name for entry in seen if entry.is_meta]
        if read:
            return list(dict.fromkeys(read))
        if one is frame and one.f_code.co_name not in _CALLERS:
            break
    return []


def _inputs(frames: list[FrameType], paths: Mapping[int, str], known: Collection[int]) -> Iterator[tuple[str, str]]:
    """Names and devices of the arguments of the outermost call into the model."""
    for frame in frames:
        module = _self_module(frame)
        if module is None or id(module) not in paths or frame.f_code.co_name not in _CALLS_OF_A_MODEL:
            continue
        try:
            names = list(inspect.signature(type(module).forward).parameters)[1:]
        except (TypeError, ValueError):
            names = []
        positions = {f"args[{n}]": name for n, name in enumerate(names)}
        for name, value in _arguments(frame):
            if isinstance(value, torch.Tensor) and id(value) not in known:
                yield positions.get(name, name), str(value.device)
        return


def _arguments(frame: FrameType) -> Iterator[tuple[str, object]]:
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
