"""The maps that the presets `disk` and `offload` stand for, and what is wrong with a given map. Reads a meta model."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import nn

from diag.errors import SpecError, UnsupportedError
from diag.machine.accelerators import accelerator_name, device_count
from diag.models.devices import ancestors, device_for

Device = str | int
WRITTEN_PRESETS = ("disk", "offload")


def block_paths(model: nn.Module) -> tuple[str, ...]:
    """The outermost modules of a class in `_no_split_modules`, in order; else the members of its module lists."""
    classes = set(getattr(model, "_no_split_modules", None) or ())
    found = tuple(_outermost(model, lambda m: type(m).__name__ in classes))
    if found:
        return found
    lists = tuple(_outermost(model, lambda m: isinstance(m, nn.ModuleList)))
    members = {path: model.get_submodule(path).named_children() for path in lists}
    return tuple(f"{path}.{name}" for path, children in members.items() for name, _ in children)


def _outermost(module: nn.Module, wanted: Callable[[nn.Module], bool], path: str = "") -> Iterator[str]:
    if path and wanted(module):
        yield path
        return
    for name, child in module.named_children():
        yield from _outermost(child, wanted, f"{path}.{name}" if path else name)


def written_map(preset: str, model: nn.Module, first: Device, tied: Iterable[str]) -> dict[str, Device]:
    """The map that `disk` or `offload` stands for; tied tensors, and all outside of blocks, go to the first device.

    `disk` puts every block on disk; `offload` puts blocks by thirds on the first device, the CPU and disk.
    """
    tied = tuple(tied)
    blocks = [path for path in block_paths(model) if not any(name.startswith(f"{path}.") for name in tied)]
    if not blocks:
        raise UnsupportedError(
            f"{type(model).__name__} has no blocks that could be offloaded.",
            why="its class declares no _no_split_modules and it has no module lists.",
            next_step="write the map yourself: device_map={'module.name': 'disk', …}.",
        )
    thirds: tuple[Device, ...] = ("disk",) * 3 if preset == "disk" else (first, "cpu", "disk")
    places = {block: thirds[i * 3 // len(blocks)] for i, block in enumerate(blocks)}
    return {**dict.fromkeys(_rest(model, "", frozenset(places)), first), **places}


def _rest(module: nn.Module, path: str, taken: frozenset[str]) -> Iterator[str]:
    """The fewest names that cover everything outside `taken`: whole modules, and single tensors of split ones."""
    dot = f"{path}." if path else ""
    for name, child in module.named_children():
        inner = f"{dot}{name}"
        if inner in taken:
            continue
        if any(block.startswith(f"{inner}.") for block in taken):
            yield from _rest(child, inner, taken)
        else:
            yield inner
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield f"{dot}{name}"


def check_devices(device_map: Mapping[str, Device]) -> None:
    """Raises SpecError where a map names an accelerator that this machine does not have."""
    kind, count = accelerator_name(), device_count()
    there = {"cpu", "disk", "meta", *(str(i) for i in range(count)), *(f"{kind}:{i}" for i in range(count))}
    there |= {kind} if kind else set()
    for name, device in device_map.items():
        if str(device) not in there:
            have = f"{count} {kind} devices: {', '.join(map(str, range(count)))}" if kind else "no accelerator"
            what = f"the device map puts {repr(name) if name else 'the whole model'} on {device!r}, which is not there."
            next_step = "name a device that is there, or simulate the machine: hardware='2x24GiB+64GiB'."
            raise SpecError(what, why=f"this machine has {have}.", next_step=next_step)


def check_map(model: nn.Module, device_map: Mapping[str, Device]) -> None:
    """Raises SpecError when a map names modules that do not exist or leaves tensors without a device."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    tensors = [name for name, _ in named]
    known = {*tensors, *(path for path, _ in model.named_modules())}
    unknown = sorted(set(device_map) - known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        raise SpecError(
            f"the device map names {len(unknown)} modules that {type(model).__name__} does not have: "
            f"{', '.join(map(repr, unknown[:4]))}{' …' * (len(unknown) > 4)}.",
            why="transformers would leave them out without a word.",
            next_step=f"did you mean {close[0]!r}? " if close else "print([n for n, _ in model.named_modules()]).",
        )
    uncovered = [name for name in tensors if device_for(name, device_map) is None]
    if uncovered:
        what = f"the device map gives no device to {len(uncovered)} tensors, {uncovered[0]!r} among them."
        why = f"no key of the map is a prefix of its name; the map has {len(device_map)} keys."
        raise SpecError(what, why=why, next_step="add the missing modules, or '' for all the rest.")
    _refuse_nested(model, device_map)


def _refuse_nested(model: nn.Module, device_map: Mapping[str, Device]) -> None:
    """accelerate gives the outer entry's hook every tensor below it, also those that an inner entry offloads."""
    accelerators = any(device not in ("cpu", "disk") for device in device_map.values())
    for inner, device in device_map.items():
        outer = next((name for name in ancestors(inner) if name in device_map), None)
        if outer is None or device == device_map[outer]:
            continue
        outside_is_offloaded = device_map[outer] == "disk" or (device_map[outer] == "cpu" and accelerators)
        if device == "disk" or outside_is_offloaded:
            others = [path for path, _ in model.get_submodule(outer).named_children()]
            raise UnsupportedError(
                f"the device map can't be dispatched: {inner!r} on {device!r} is inside "
                f"{outer!r} on {device_map[outer]!r}.",
                why="accelerate would fail with ValueError, weight is on the meta device "
                "(attach_align_device_hook_on_blocks in accelerate/hooks.py, 1.15.0).",
                next_step=f"name the parts of {outer or 'the model'!r} one by one in its place: "
                f"{', '.join(others[:4])}{' …' * (len(others) > 4)}.",
            )
