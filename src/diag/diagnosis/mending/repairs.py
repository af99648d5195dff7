"""Repairs of a model in memory. Each is all or nothing: what it needs is fetched first, then the model is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from diag.errors import CouldNotJudgeError, MetaWithoutDataError
from diag.loading.checkpoint.stored import plain_name, sources
from diag.models.adapters import without_adapter
from diag.models.hooks import HookIndex, align_hooks
from diag.models.tensors import Entry, accelerator_type, entries, tie_sources
from diag.models.undo import all_or_nothing
from diag.proving.weights import held_value


def materialise(model: nn.Module, device: Any = None) -> nn.Module:
    """Brings every offloaded tensor in, takes the hooks off and puts the model on one device; returns the model.

    Without `device` it is the device where the model runs, or the CPU where its hooks name several. Takes as much
    memory there as the whole model. All or nothing: raises MetaWithoutDataError, naming them, when a meta tensor has
    no data anywhere, or the device's out-of-memory error, and leaves the model as it was then. A forward that was put
    past its hook goes with the hooks.
    """
    target = torch.device(device) if device is not None else _own_device(model)
    values = _fetch(model, target)
    with all_or_nothing(model):
        _unhook(model)
        _put(model, values)
        model.to(target)
        model.__dict__.pop("hf_device_map", None)
    return model


def input_device(model: nn.Module) -> torch.device:
    """The device to send inputs to: where the embedding runs, which is not model.device when it is offloaded.

    >>> input_device(nn.Linear(2, 2))
    device(type='cpu')
    """
    index = HookIndex(model)
    start = _input_module_path(model)
    for path in dict.fromkeys([start, "", *(p for p, m in model.named_modules() if align_hooks(m))]):
        device = index.execution_device(path)
        if device is not None:
            return as_device(device, model)
        if path == start and path:
            found = next((p.device for p in model.get_submodule(path).parameters() if not p.is_meta), None)
            if found is not None:
                return found
    tensors = (*model.parameters(), *model.buffers())
    return next((t.device for t in tensors if not t.is_meta), torch.device("cpu"))


def refill(model: nn.Module, names: Iterable[str], checkpoint: Any = None) -> nn.Module:
    """Reads these tensors from the checkpoint's files into the model; ties and dtypes are kept.

    Buffers that are not saved are computed anew. Raises CouldNotJudgeError when a tensor is in no file.
    """
    wanted = set(names)
    files = sources(model, checkpoint)
    tied, device = tie_sources(model), input_device(model)
    fresh = (
        _fresh_buffers(model)
        if any(e.kind == "non_persistent_buffer" for e in entries(model) if e.name in wanted)
        else {}
    )
    values: dict[str, torch.Tensor] = {}
    for entry in entries(model):
        if entry.name not in wanted:
            continue
        source = files.get(plain_name(entry.name)) or files.get(plain_name(tied.get(entry.name, "")))
        value = source.read() if source is not None else fresh.get(plain_name(entry.name))
        if value is None or value.shape != entry.tensor.shape:
            raise CouldNotJudgeError(
                f"{entry.name!r} can't be refilled.",
                why="the checkpoint's files hold no tensor of that name and shape.",
                next_step="load the model again from a complete checkpoint.",
            )
        where = device if entry.tensor.is_meta else entry.tensor.device
        values[entry.name] = value.to(device=where, dtype=entry.tensor.dtype)
    _put(model, values)
    return model


def together(model: nn.Module) -> nn.Module:
    """Puts a model that has lost its hooks on the device where it starts: nobody else would move inputs for it.

    A model that still has hooks stays where it is. Raises the device's out-of-memory error, nothing moved then.
    """
    if any(align_hooks(module) for module in model.modules()):
        return model
    target = input_device(model)
    elsewhere = [e for e in entries(model) if not e.tensor.is_meta and _moves_as_a_copy(e.tensor, target)]
    moved = {id(e.tensor): e.tensor.detach().to(target) for e in {id(e.tensor): e for e in elsewhere}.values()}
    with all_or_nothing(model):
        _put(model, {e.name: moved[id(e.tensor)] for e in elsewhere})
        model.__dict__.pop("hf_device_map", None)
    return model


def put_back(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Moves these tensors to where their modules' hooks run them; raises the device's out-of-memory error."""
    index, wanted = HookIndex(model), set(names)
    chosen = {e.name: (e.tensor, index.execution_device(e.name.rpartition(".")[0])) for e in entries(model)
              if e.name in wanted}  # fmt: skip
    _put(model, {name: tensor.detach().to(as_device(device, model)) for name, (tensor, device) in chosen.items()
                 if device is not None and not tensor.is_meta})  # fmt: skip
    return model


def restore_buffers(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Gives buffers that are not saved the values that the model's constructor computes."""
    fresh, wanted = _fresh_buffers(model), set(names)
    chosen = {e.name: (e.tensor, fresh.get(plain_name(e.name))) for e in entries(model) if e.name in wanted}
    if any(new is None or new.shape != old.shape for old, new in chosen.values()):
        raise CouldNotJudgeError(
            "these buffers can't be computed anew.", why="the model's constructor does not make them."
        )
    device = input_device(model)
    _put(model, {n: new.to(device=device if old.is_meta else old.device, dtype=old.dtype)
                 for n, (old, new) in chosen.items() if new is not None})  # fmt: skip
    return model


def restore_forward(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Puts accelerate's hooks back in front of the modules that own these tensors; other forwards are taken off."""
    from accelerate.hooks import add_hook_to_module

    for path in _carriers(model, names):
        module = model.get_submodule(path)
        hook = module._hf_hook
        original = module.__dict__.pop("_old_forward", None)
        module.__dict__.pop("forward", None)
        if original is not None and getattr(original, "__self__", module) is not module:
            module.forward = original
        del module._hf_hook
        add_hook_to_module(module, hook)
    return model


def restore_tie(model: Any) -> nn.Module:
    """Ties what the model declares tied, following its sources."""
    for follower, source in tie_sources(model).items():
        path, _, local = source.rpartition(".")
        tensor = model.get_submodule(path)._parameters[local]
        path, _, local = follower.rpartition(".")
        model.get_submodule(path)._parameters[local] = tensor
    if not tie_sources(model) and hasattr(model, "tie_weights"):
        model.tie_weights()
    return model


def as_device(device: Any, model: nn.Module) -> torch.device:
    if isinstance(device, int) and not isinstance(device, bool):
        return torch.device(accelerator_type(model) or "cpu", device)
    return torch.device(device)


def _own_device(model: nn.Module) -> torch.device:
    devices = {as_device(h.execution_device, model) for m in model.modules() for h in align_hooks(m)
               if h.execution_device is not None}  # fmt: skip
    devices |= {t.device for t in (*model.parameters(), *model.buffers()) if not t.is_meta}
    return devices.pop() if len(devices) == 1 else torch.device("cpu")


def _fetch(model: nn.Module, target: torch.device) -> dict[str, torch.Tensor]:
    """All data that is not yet on the target, there; raises before anything was changed."""
    index = HookIndex(model)
    values: dict[str, torch.Tensor] = {}
    missing = []
    fetched: dict[int, torch.Tensor] = {}
    for entry in entries(model):
        if not entry.tensor.is_meta and not _moves_as_a_copy(entry.tensor, target):
            continue
        if id(entry.tensor) not in fetched:
            value = held_value(entry, index, also_bypassed=True) if entry.tensor.is_meta else entry.tensor.detach()
            if value is None or value.is_meta:
                missing.append(entry.name)
                continue
            fetched[id(entry.tensor)] = value.to(target)
        values[entry.name] = fetched[id(entry.tensor)]
    missing = [name for name in missing if tie_sources(model).get(name) not in values]
    if missing:
        raise without_data(model, missing)
    return values


def _moves_as_a_copy(tensor: torch.Tensor, target: torch.device) -> bool:
    """Whether a resident tensor is on another device, and plain: quantized ones are moved by their own class."""
    return type(tensor) in (torch.Tensor, nn.Parameter) and tensor.device != target


def without_data(model: nn.Module, missing: list[str]) -> MetaWithoutDataError:
    """The error that names meta tensors without data."""
    total = sum(1 for _ in entries(model))
    shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    return MetaWithoutDataError(
        f"{len(missing)} of {total} tensors of {type(model).__name__} are on meta, and nobody has their data: {shown}.",
        why="no hook with a store of weights serves them, so there is nothing to bring in.",
        next_step="diag.diagnose(model) says how it came to that; loading again is the usual fix. to_empty() would "
        "give uninitialised weights.",
    )


def not_in_store(model: nn.Module, names: list[str]) -> MetaWithoutDataError:
    """The error that names tensors which a hook will look for in vain."""
    return MetaWithoutDataError(
        f"the next forward of {type(model).__name__} will end in a KeyError: hooks fetch {', '.join(names[:4])} from a "
        "store that does not have it.",
        why="the map offloads a module whose tensor is tied to one that stays, or that was put in later.",
        next_step="diag.diagnose(model) says which; a device_map that keeps tied modules together is the usual fix.",
    )


def _unhook(model: nn.Module) -> None:
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)


def _put(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Sets tensors by name; names that shared a tensor share the new one."""
    made: dict[int, Any] = {}
    tied = tie_sources(model)
    for entry in list(entries(model)):
        value = values.get(entry.name, values.get(tied.get(entry.name, "")) if entry.tensor.is_meta else None)
        if value is None:
            continue
        key = id(entry.tensor)
        if key not in made:
            made[key] = _like(entry, value)
        store = entry.owner._parameters if entry.kind == "parameter" else entry.owner._buffers
        store[entry.local_name] = made[key]
    for follower, source in tied.items():
        _share(model, follower, source)


def _like(entry: Entry, value: torch.Tensor) -> Any:
    if entry.kind != "parameter":
        return value
    old: Any = entry.tensor
    kept = dict(old.__dict__) if type(old) is nn.Parameter else {}
    new = nn.Parameter(value, requires_grad=old.requires_grad)
    new.__dict__.update(kept)
    return new


def _share(model: nn.Module, follower: str, source: str) -> None:
    """Makes a declared tie one tensor where both now hold the same values."""
    try:
        a = model.get_submodule(follower.rpartition(".")[0])
        b = model.get_submodule(source.rpartition(".")[0])
    except AttributeError:
        return
    left: Any = a._parameters.get(follower.rpartition(".")[2])
    right: Any = b._parameters.get(source.rpartition(".")[2])
    alike = left is not None and right is not None and left is not right and left.shape == right.shape
    if alike and not left.is_meta and not right.is_meta and left.device == right.device and torch.equal(left, right):
        a._parameters[follower.rpartition(".")[2]] = right


def _carriers(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Modules whose hook serves these tensors and whose forward does not reach it."""
    from diag.models.forwards import Reach, reaches_wrapper

    index = HookIndex(model)
    serving = [one for name in names for one in index.serving(name.rpartition(".")[0]) if one.hook.offload]
    found = {one.carrier_path: one.carrier for one in serving}
    return [path for path, module in found.items() if reaches_wrapper(module) is not Reach.YES]


def _input_module_path(model: nn.Module) -> str:
    """The path of the module that takes the inputs: the embedding of a transformers model."""
    get = getattr(model, "get_input_embeddings", None)
    try:
        module = get() if callable(get) else None
    except (NotImplementedError, AttributeError):
        module = None
    return next((path for path, one in model.named_modules() if one is module), "") if module is not None else ""


def _fresh_buffers(model: Any) -> dict[str, torch.Tensor]:
    from diag.proving.buffers import fresh_buffers

    return fresh_buffers(without_adapter(model))
