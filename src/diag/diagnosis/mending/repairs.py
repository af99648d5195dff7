"""Repairs of a model in memory. Each is all or nothing: what it needs is fetched first, then the model is changed.

They work on a snapshot and change the model that it was taken of.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from diag.errors import CouldNotJudgeError, MetaWithoutDataError
from diag.loading.checkpoint.stored import plain_name, sources
from diag.models.devices import as_device, input_device
from diag.models.entries import Entry
from diag.models.forwards import Reach
from diag.models.snapshot import Snapshot
from diag.models.undo import all_or_nothing
from diag.proving.buffers import fresh_buffers
from diag.proving.weights import held_value
from diag.values.finding import Finding, names_in_words
from diag.values.spec import LoadSpec


def materialise(snapshot: Snapshot, device: torch.device | str | int | None = None) -> None:
    """What `diag.materialise` does to a model; says there what it needs and raises."""
    from accelerate.hooks import remove_hook_from_module

    model = snapshot.root
    target = torch.device(device) if device is not None else _own_device(snapshot)
    values = _fetch(snapshot, target)
    with all_or_nothing(snapshot):
        remove_hook_from_module(model, recurse=True)
        _put(snapshot, values)
        model.to(target)
        model.__dict__.pop("hf_device_map", None)


def refill(snapshot: Snapshot, names: Iterable[str], checkpoint: LoadSpec | str | None = None) -> None:
    """Reads these tensors from the checkpoint's files into the model, and puts a model without hooks together.

    Ties and dtypes are kept, buffers that are not saved computed anew. Raises CouldNotJudgeError when a tensor is in no
    file.
    """
    chosen = [snapshot.by_name[name] for name in names if name in snapshot.by_name]
    files, device = sources(snapshot, checkpoint), input_device(snapshot)
    unsaved = any(entry.kind == "non_persistent_buffer" for entry in chosen)
    fresh = fresh_buffers(snapshot.base) if unsaved else {}
    values: dict[str, torch.Tensor] = {}
    for entry in chosen:
        source = files.get(plain_name(entry.name)) or files.get(plain_name(snapshot.ties.get(entry.name, "")))
        value = source.read() if source is not None else fresh.get(plain_name(entry.name))
        if value is None or tuple(value.shape) != entry.shape:
            raise CouldNotJudgeError(
                f"{entry.name!r} can't be refilled.",
                why="the checkpoint's files hold no tensor of that name and shape.",
                next_step="load the model again from a complete checkpoint.",
            )
        values[entry.name] = value.to(device=device if entry.is_meta else entry.device, dtype=entry.dtype)
    _put(snapshot, values)
    together(snapshot, device)


def together(snapshot: Snapshot, target: torch.device) -> None:
    """Puts a model that has lost its hooks on the device where it starts: nobody else would move inputs for it.

    Looks at the tensors that the model holds now. A model that still has hooks stays where it is. Raises the device's
    out-of-memory error, nothing moved then.
    """
    if snapshot.hooked:
        return
    places = [(_held(entry), entry.local_name) for entry in snapshot.entries if entry.kind != "quant_state"]
    elsewhere = [(held, name, held[name]) for held, name in places if _moves_as_a_copy(held.get(name), target)]
    moved = {key: _like(old, old.detach().to(target)) for key, old in {id(t): t for *_, t in elsewhere}.items()}
    for held, name, old in elsewhere:
        held[name] = moved[id(old)]
    _share_ties(snapshot)
    snapshot.root.__dict__.pop("hf_device_map", None)


def put_back(snapshot: Snapshot, names: Iterable[str]) -> None:
    """Moves these tensors to where their modules' hooks run them; raises the device's out-of-memory error."""
    homes = {e.name: e.execution_device for name in names if (e := snapshot.by_name.get(name)) and not e.is_meta}
    devices = {name: as_device(home, snapshot.accelerator) for name, home in homes.items() if home is not None}
    _put(snapshot, {name: snapshot.by_name[name].tensor.detach().to(device) for name, device in devices.items()})


def restore_buffers(snapshot: Snapshot, names: Iterable[str]) -> None:
    """Gives buffers that are not saved the values that the model's constructor computes."""
    fresh, device = fresh_buffers(snapshot.base), input_device(snapshot)
    values: dict[str, torch.Tensor] = {}
    for entry in (snapshot.by_name[name] for name in names if name in snapshot.by_name):
        new = fresh.get(plain_name(entry.name))
        if new is None or tuple(new.shape) != entry.shape:
            why = "the model's constructor does not make them."
            raise CouldNotJudgeError("these buffers can't be computed anew.", why=why)
        values[entry.name] = new.to(device=device if entry.is_meta else entry.device, dtype=entry.dtype)
    _put(snapshot, values)


def restore_forward(snapshot: Snapshot, names: Iterable[str]) -> None:
    """Puts accelerate's hooks back in front of the modules that own these tensors; other forwards are taken off."""
    from accelerate.hooks import add_hook_to_module

    owners = {name.rpartition(".")[0] for name in names}
    hooks = [one.hook for owner in owners for one in snapshot.hooks.serving.get(owner, ()) if one.hook.offload]
    bypassed = {hook.carrier_path: hook.carrier for hook in hooks if hook.reach is not Reach.YES}
    for module in bypassed.values():
        state = module.__dict__
        hook, original = state["_hf_hook"], state.pop("_old_forward", None)
        state.pop("forward", None)
        if original is not None and getattr(original, "__self__", module) is not module:
            module.forward = original
        del module._hf_hook
        add_hook_to_module(module, hook)


def restore_tie(snapshot: Snapshot) -> None:
    """Ties what the model declares tied, following its sources."""
    for follower, source in snapshot.ties.items():
        to, of = snapshot.by_name[follower], snapshot.by_name[source]
        to.owner._parameters[to.local_name] = of.owner._parameters[of.local_name]
    tie_weights = getattr(snapshot.root, "tie_weights", None)
    if not snapshot.ties and callable(tie_weights):
        tie_weights()


def _own_device(snapshot: Snapshot) -> torch.device:
    """The one device where the model runs; the CPU where hooks and tensors name several."""
    executing = (hook.execution_device for hook in snapshot.hooks.hooks)
    devices = {as_device(one, snapshot.accelerator) for one in executing if one is not None}
    devices |= {entry.device for entry in snapshot.entries if not entry.is_meta and entry.kind != "quant_state"}
    return devices.pop() if len(devices) == 1 else torch.device("cpu")


def _fetch(snapshot: Snapshot, target: torch.device) -> dict[str, torch.Tensor]:
    """All data that is not yet on the target, there; raises before anything was changed."""
    values: dict[str, torch.Tensor] = {}
    fetched: dict[int, torch.Tensor] = {}
    plain = [entry for entry in snapshot.entries if entry.is_meta or entry.kind != "quant_state"]
    elsewhere = [entry for entry in plain if entry.is_meta or _moves_as_a_copy(entry.tensor, target)]
    for entry in elsewhere:
        if id(entry.tensor) not in fetched:
            value = held_value(entry, snapshot, also_bypassed=True) if entry.is_meta else entry.tensor.detach()
            if value is None or value.is_meta:
                continue
            fetched[id(entry.tensor)] = value.to(target)
        values[entry.name] = fetched[id(entry.tensor)]
    found = {*values, *(follower for follower, source in snapshot.ties.items() if source in values)}
    if missing := [entry.name for entry in elsewhere if entry.name not in found]:
        raise without_data(snapshot, missing)
    return values


def _moves_as_a_copy(tensor: torch.Tensor | None, target: torch.device) -> bool:
    """Whether a tensor is here, on another device, and plain: quantized ones are moved by their own class."""
    if tensor is None or type(tensor) not in (torch.Tensor, nn.Parameter):
        return False
    return not tensor.is_meta and tensor.device != target


def without_data(snapshot: Snapshot, missing: list[str]) -> MetaWithoutDataError:
    """The error that names meta tensors without data."""
    return MetaWithoutDataError(
        f"{len(missing)} of {len(snapshot.entries)} tensors of {type(snapshot.root).__name__} are on meta, and nobody "
        f"has their data: {names_in_words(missing, 4)}.",
        why="no hook with a store of weights serves them, so there is nothing to bring in.",
        next_step="diag.diagnose(model) says how it came to that; loading again is the usual fix. to_empty() would "
        "give uninitialised weights.",
    )


def not_in_store(snapshot: Snapshot, names: list[str]) -> MetaWithoutDataError:
    """The error that names tensors which a hook will look for in vain."""
    return MetaWithoutDataError(
        f"the next forward of {type(snapshot.root).__name__} will end in a KeyError: hooks fetch "
        f"{', '.join(names[:4])} from a store that does not have it.",
        why="the map offloads a module whose tensor is tied to one that stays, or that was put in later.",
        next_step="diag.diagnose(model) says which; a device_map that keeps tied modules together is the usual fix.",
    )


def _put(snapshot: Snapshot, values: Mapping[str, torch.Tensor]) -> None:
    """Sets tensors by name; names that shared a tensor share the new one."""
    made: dict[int, torch.Tensor] = {}
    for entry in snapshot.entries:
        tied_to = snapshot.ties.get(entry.name, "") if entry.is_meta else ""
        value = values.get(entry.name, values.get(tied_to))
        if value is not None:
            _held(entry)[entry.local_name] = made.setdefault(id(entry.tensor), _like(entry.tensor, value))
    _share_ties(snapshot)


def _held(entry: Entry) -> dict[str, Any]:
    """Where the module keeps the tensor."""
    return entry.owner._parameters if entry.kind == "parameter" else entry.owner._buffers


def _like(old: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The new value; for a parameter as one, with what the old one was marked with."""
    if not isinstance(old, nn.Parameter):
        return value
    new = nn.Parameter(value, requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__ if type(old) is nn.Parameter else {})
    return new


def _share_ties(snapshot: Snapshot) -> None:
    """Makes a declared tie one tensor where follower and source now hold the same values."""
    for follower, source in snapshot.ties.items():
        tied = [snapshot.by_name[name] for name in (follower, source) if name in snapshot.by_name]
        left, right = (e.owner._parameters.get(e.local_name) for e in tied) if len(tied) == 2 else (None, None)
        if left is None or right is None or left is right or left.is_meta or right.is_meta:
            continue
        if left.shape == right.shape and left.device == right.device and torch.equal(left, right):
            tied[0].owner._parameters[tied[0].local_name] = right


# What a `Fix` of kind `in-place` names as its repair. With use-input-device the model is as it should be.
REPAIRS: dict[str, Callable[[Snapshot, Finding, LoadSpec | None], None]] = {
    "materialise": lambda snapshot, finding, spec: materialise(snapshot),
    "restore-forward": lambda snapshot, finding, spec: restore_forward(snapshot, finding.tensors),
    "restore-buffers": lambda snapshot, finding, spec: restore_buffers(snapshot, finding.tensors),
    "restore-tie": lambda snapshot, finding, spec: restore_tie(snapshot),
    "refill": lambda snapshot, finding, spec: refill(snapshot, finding.tensors, spec),
    "together": lambda snapshot, finding, spec: together(snapshot, input_device(snapshot)),
    "put-back": lambda snapshot, finding, spec: put_back(snapshot, finding.tensors),
    "use-input-device": lambda snapshot, finding, spec: None,
}
