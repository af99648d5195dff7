"""From a snapshot to the facts that rules need: hooks that were taken off, ties, quantization, gradients.

Reads what the snapshot holds, and samples of values; nothing is moved, called or changed. A fact that can't be found
out is empty, and `examined` says why.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from diag.diagnosis.evidence import ModelFacts, Row
from diag.diagnosis.evidence.values import MARK, dead_adapter, rewritten, value_facts
from diag.models import quantizers
from diag.models.adapters import is_adapter_module
from diag.models.devices import ancestors, device_texts
from diag.models.entries import Unreadable
from diag.models.snapshot import Snapshot
from diag.models.ties import embedding, ties_of_config
from diag.proving.buffers import wrong_buffers

T = TypeVar("T")
Source = tuple[str, Sequence[Path]] | Unreadable
_PackedLayer = tuple[str, nn.Module, torch.Tensor]  # the weight's name, the layer, the weight
_HEADS = ("lm_head", "score", "classifier")  # quantizers leave them out unless they are asked


def rows_of_snapshot(snapshot: Snapshot) -> tuple[Row, ...]:
    """The placement table's rows, with the reasons, and with the maps of models inside the model."""
    texts = device_texts(snapshot)
    return tuple(
        Row(
            name=e.name,
            kind=e.kind,
            module=e.module_path,
            module_class=type(e.owner).__name__,
            dtype=str(e.dtype).removeprefix("torch."),
            device=texts[e.device],
            mapped_device=texts[e.mapped_device] or texts[e.mapped_inside],
            execution_device=texts[e.execution_device],
            backing=e.backing.kind,
            quantization=e.quantization,
            tied_group=snapshot.tied_groups[e.name],
            numel=e.numel,
            nbytes=e.nbytes,
            reason=e.backing.reason or "",
        )
        for e in snapshot.in_table_order
    )


def facts_of(snapshot: Snapshot, rows: tuple[Row, ...], source: Source) -> ModelFacts:
    """All facts of one model; `source` is its checkpoint by name, with the weight files that are on this machine."""
    name, files = ("", ()) if isinstance(source, Unreadable) else source
    skipped = [*snapshot.unreadable, *([source] if isinstance(source, Unreadable) else [])]

    def read(what: str, found: Callable[[Snapshot], Iterable[T]]) -> tuple[T, ...]:
        try:
            return tuple(found(snapshot))
        except Exception as error:
            skipped.append(Unreadable.because(what, error))
            return ()

    packed = read("layers of a packed class", _packed_layers)
    values = value_facts(snapshot, files, skipped)
    facts = replace(
        values,
        dead_adapter=read("the adapter's matrices", dead_adapter),
        rewritten=read("the names in the checkpoint's files", partial(rewritten, name=name)),
        wrong_buffers=read("buffers that are not saved", wrong_buffers),
        is_adapter=any(type(module).__module__.startswith("peft.tuners") for module in snapshot.modules.values()),
        stripped=read("hooks that were taken off", stripped),
        newcomers=read("modules put in after the load", newcomers),
        lost_ties=read("whether tied tensors are alike", lost_ties),
        unpacked=(*read("layers left unquantized", unpacked), *never_packed(packed)),
        stateless=read("the state of packed layers", lambda _: stateless(packed)),
        bare_meta=read("tensors that are plain attributes", bare_meta),
        frozen_out=read("gradients", frozen_out),
        off_meta_state=tuple(_states_on_meta(rows)),
        strays=read("modules without a hook among hooked ones", strays),
        unserved=tuple(entry.name for entry in snapshot.entries if entry.is_sought_in_vain),
        first_device=next((str(e.device) for e in snapshot.entries if e.kind == "parameter"), ""),
    )
    return replace(facts, examined=(*values.examined, *map(str, skipped)))


def stripped(snapshot: Snapshot) -> Iterator[str]:
    """Modules whose hook was taken off: `remove_hook_from_module` puts the old forward back on the instance."""
    for path, module in snapshot.named_modules:
        state = module.__dict__
        forward = state.get("forward")
        if forward is None or "_hf_hook" in state or "_old_forward" in state:
            continue
        is_own = getattr(forward, "__self__", None) is module
        if is_own and getattr(forward, "__func__", None) is getattr(type(module), "forward", None):
            yield path


def newcomers(snapshot: Snapshot) -> Iterator[str]:
    """Modules without the mark that transformers leaves on all it loaded, right inside one that has it.

    What stands beside a loaded model, in a wrapper of the user's own, was never part of a load and is not judged.
    """
    for path, module in snapshot.named_modules:
        parent = snapshot.modules.get(path.rpartition(".")[0]) if path else None
        if parent is None or module.__dict__.get(MARK) or not parent.__dict__.get(MARK):
            continue
        of_peft = is_adapter_module(path) or type(module).__module__.startswith("peft")
        if not of_peft and (module._modules or _owns_parameters(module)):
            yield path


def _owns_parameters(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def strays(snapshot: Snapshot) -> Iterator[str]:
    """Modules whose tensors no hook serves, inside a dispatched model, while a sibling has its own hook."""
    placing = {hook.carrier_path for hook in snapshot.hooks.hooks if hook.place_submodules}
    with_hooked_children = {path.rpartition(".")[0] for path in snapshot.hooked if path}
    for path, module in snapshot.named_modules:
        if path in snapshot.hooked or path.rpartition(".")[0] not in with_hooked_children:
            continue
        if is_adapter_module(path) or not _owns_parameters(module):
            continue
        above = [up for up in ancestors(path) if up in snapshot.modules]
        if any(_is_dispatched(snapshot, up) for up in above) and not placing.intersection(above):
            yield path


def _is_dispatched(snapshot: Snapshot, path: str) -> bool:
    module = snapshot.modules[path]
    return path in snapshot.hooked or "hf_device_map" in module.__dict__ or bool(module.__dict__.get(MARK))


def lost_ties(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Pairs that the model declares tied, and whose tensors differ where both are here.

    Where one is offloaded the store decides, and the rule on meta tensors names it if nobody has it.
    """
    for follower, source in (snapshot.ties or ties_of_config(snapshot.root, snapshot.paths)).items():
        a, b = snapshot.by_name.get(follower), snapshot.by_name.get(source)
        if a is None or b is None or a.tensor is b.tensor or not (a.can_be_sampled and b.can_be_sampled):
            continue
        if a.shape != b.shape or not _same_values(a.tensor, b.tensor):
            yield follower, source


def _same_values(a: torch.Tensor, b: torch.Tensor, rows: int = 64) -> bool:
    """Compared on evenly spaced rows."""
    step = max(1, a.shape[0] // rows) if a.dim() else 1
    left, right = (a, b) if not a.dim() else (a[::step], b[::step])
    return bool(torch.equal(left.detach().float().cpu(), right.detach().float().cpu()))


def unpacked(snapshot: Snapshot) -> Iterator[str]:
    """Linear layers in full precision although the config asks for bitsandbytes, and nothing excuses them."""
    config = quantizers.config_of(snapshot.root)
    if "bitsandbytes" not in str(config.get("quant_method", "")):
        return
    excused = _excused(snapshot, config)
    for path, module in snapshot.named_modules:
        if type(module) is nn.Linear and not is_adapter_module(path) and not any(_covers(key, path) for key in excused):
            yield f"{path}.weight"


def _excused(snapshot: Snapshot, config: Mapping[str, object]) -> list[str]:
    """Modules that may stay at full size; those that were offloaded on request only where others are quantized."""
    model = snapshot.root
    keys = [*_names(config.get("llm_int8_skip_modules")), *_names(getattr(model, "_keep_in_fp32_modules", None))]
    if any(quantizers.quantizer_of_layer(module) for module in snapshot.modules.values()):
        keys += _names(getattr(getattr(model, "hf_quantizer", None), "modules_to_not_convert", None))
    head = snapshot.paths.get(id(embedding(model, "output")))
    last = list(snapshot.paths.values())[-1]
    return [*keys, *([] if head is None else [head]), *([last] if last else []), *_HEADS]


def _names(given: object) -> list[str]:
    return [str(one) for one in given] if isinstance(given, Iterable) else []


def _covers(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.") or f".{key}." in f".{path}." or path.endswith(f".{key}")


def bare_meta(snapshot: Snapshot) -> Iterator[str]:
    """Plain tensor attributes on meta, which are neither parameters nor buffers, so that no load fills them."""
    for path, module in snapshot.named_modules:
        for key, value in module.__dict__.items():
            if type(value) in (bool, dict, int, str):  # quick, for what most attributes are
                continue
            held = value[:64] if isinstance(value, (list, tuple)) else (value,)
            if any(isinstance(one, torch.Tensor) and one.is_meta for one in held):
                yield f"{path}.{key}" if path else key


def _packed_layers(snapshot: Snapshot) -> Iterator[_PackedLayer]:
    """Layers of a quantizer's class whose weight is here: the weight's name, the layer, the weight."""
    for path, module in snapshot.named_modules:
        weight = module._parameters.get("weight") if quantizers.quantizer_of_layer(module) else None
        if weight is not None and not weight.is_meta:
            yield f"{path}.weight", module, weight


def stateless(packed: Iterable[_PackedLayer]) -> Iterator[str]:
    """Packed layers whose bytes have no scales."""
    for name, module, weight in packed:
        if any(one.lacks_state(module, weight) for one in quantizers.ALL):
            yield name


def never_packed(packed: Iterable[_PackedLayer]) -> Iterator[str]:
    """Layers of a packed class around a plain weight."""
    for name, module, weight in packed:
        on_purpose = getattr(getattr(module, "state", None), "has_fp16_weights", False)
        if weight.dtype.is_floating_point and not on_purpose and getattr(weight, "quant_state", None) is None:
            yield name


def frozen_out(snapshot: Snapshot) -> Iterator[str]:
    """Trainable tensors on meta, while others of the same model have received a gradient."""
    parameters = [e for e in snapshot.distinct.values() if e.kind == "parameter"]
    if any(e.tensor.is_leaf and e.tensor.grad is not None for e in parameters):
        yield from (e.name for e in parameters if e.is_meta and e.tensor.requires_grad)


def _states_on_meta(rows: tuple[Row, ...]) -> Iterator[str]:
    """Quantization state on meta beside a weight that is here."""
    weights_on_meta = {row.module for row in rows if row.kind == "parameter" and row.device == "meta"}
    for row in rows:
        if row.kind == "quant_state" and row.device == "meta" and row.module not in weights_on_meta:
            yield row.name
