"""The twin of a model, and its answer: the same checkpoint, dtype and quantization, with the same modules packed, on
the CPU without a map. Where the host has no room it is loaded disk-offloaded on the CPU, which is exact."""

import copy
import gc
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from diag.errors import DiagError
from diag.loading.checkpoint.find import find_checkpoint
from diag.loading.footprint import Packed, is_packed_class, linear_layers, use_common_kernel
from diag.loading.planning import Plan, plan_load
from diag.loading.recipe import load, load_planned
from diag.loading.transformers_private import skeleton
from diag.machine.accelerators import free_memory
from diag.models.adapters import without_adapter
from diag.models.snapshot import Snapshot, take
from diag.models.ties import embedding
from diag.proving.probing import Answer, ask
from diag.proving.weights import held_value
from diag.values.spec import LoadSpec
from diag.values.text import error_line


def plan_of_twin(spec: LoadSpec, packed: Packed) -> Plan | str:
    """How the twin is loaded, or in a sentence why not; `packed` are the modules that the model holds packed."""
    of_twin = spec.replace(device_map="none", hardware=None, max_memory=None, offload_folder=None, loader=None)
    try:
        return _packed_alike(plan_load(of_twin), packed)
    except Exception as e:
        return f"no twin could be had: {error_line(e)}"


def answer_of_twin(spec: LoadSpec, packed: Packed, plan: Plan | str, like: Snapshot | None = None) -> Answer | str:
    """The twin's answer to the spec's probe, or in a sentence why there is none.

    With `like`, its weights begin at addresses like that model's.
    """
    if isinstance(plan, str):
        return plan
    if plan.checkpoint.nbytes * 1.1 > free_memory().get("cpu", 0) and not packed.names:
        twin = load(plan.spec.replace(device_map="disk"))
    else:
        twin = load_planned(plan)
    if twin.model is None:
        return f"no twin could be had: {error_line(twin.error)}"
    try:
        if plan.packed.names and not packed.fused:
            use_common_kernel(twin.model)
        if like is not None:
            align_like(twin.model, like)
        device = None if twin.resolved_map else getattr(twin.model, "device", None)  # without a map all is on one
        answer = ask(twin.model, spec.probe, str(plan.checkpoint.folder), device=device)
        unfilled = missing_from_body(twin.model, twin.missing_keys)
        return replace(answer, unfilled=unfilled, dtype=main_dtype(twin.model))
    except Exception as e:
        return f"the twin itself failed: {error_line(e)}"
    finally:
        del twin
        gc.collect()


def _packed_alike(plan: Plan, packed: Packed) -> Plan:
    """The plan that packs on the CPU, also beside an accelerator, and leaves unpacked what the candidate holds so.

    Naming modules to skip (offloaded ones, say) switches off transformers' own choice (the head), so those are named
    too. Without a map bitsandbytes would pick the accelerator.
    """
    config, kind = plan.arguments["quantization_config"], plan.model_class
    if config is None:
        return plan
    arguments = {**plan.arguments, "device_map": {"": "cpu"}}
    skipped = sorted(set(plan.packed.names) - set(packed.names))
    if kind is not None and skipped and hasattr(config, "llm_int8_skip_modules"):
        layers = linear_layers(skeleton(kind, str(plan.checkpoint.folder), **arguments).model)
        by_default = [name for name, module in layers if not is_packed_class(module)]
        arguments["quantization_config"] = config = copy.deepcopy(config)
        config.llm_int8_skip_modules = [*by_default, *skipped]
        plan = replace(plan, packed=packed)
    return replace(plan, arguments=arguments, resolved_map={"": "cpu"})


def tokenizer_folder(spec: LoadSpec) -> str | None:
    """Where the tokenizer of a spec's model is; None where its checkpoint can't be read."""
    try:
        return str(find_checkpoint(spec.model).folder)
    except DiagError:
        return None


def main_dtype(model: nn.Module) -> str:
    """The dtype most elements are computed in."""
    return str(getattr(model, "dtype", "float32")).removeprefix("torch.")


def missing_from_body(model: nn.Module, missing_keys: Sequence[str]) -> tuple[str, ...]:
    """The newly initialised tensors that the answer needs, without those that belong to a head put on a base model.

    A classifier on a base checkpoint is meant to be trained; a language head, or a layer, is not. `missing_keys` are
    those of `from_pretrained`, which leaves out tied weights and what a model makes by itself.
    """
    if not missing_keys:
        return ()
    base = without_adapter(model)
    prefix = str(getattr(base, "base_model_prefix", ""))
    counted = {name for name, buffer in base.named_buffers() if not buffer.is_floating_point()}  # such as positions
    missing = [key for key in missing_keys if key not in counted and "pooler" not in key.split(".")]
    if prefix and hasattr(base, prefix):  # else the model is all body; an encoder's pooler is beside the hidden state
        try:
            head = embedding(base, "output")
        except (AttributeError, NotImplementedError):
            head = None
        heads = (name for name, module in base.named_modules() if module is head)
        needed = {name.split(".")[0] for name in (prefix, *heads)}
        missing = [key for key in missing if key.split(".")[0] in needed]
    return tuple(missing)


_LINE = 64  # bytes: what torch's allocator aligns to on the CPU


def align_like(twin: nn.Module, model: nn.Module | Snapshot) -> int:
    """Moves the twin's plain tensors, in memory, to where the model's are modulo 64; returns how many were moved.

    Matrix kernels take another path for weights that begin at an unaligned address, and add in another order: weights
    mapped from a safetensors file begin where the file has them, copies and `.dat` files of accelerate at multiples of
    64. With equal values that alone can move an answer by some 1e-8. Only the twin is changed. A tensor of the model
    that is offloaded is asked for where its hook would take it from.
    """
    snapshot, moved = take(model), set()
    wanted: dict[str, int] = {}
    for entry in snapshot.entries:
        value = held_value(entry, snapshot) if entry.is_meta else entry.tensor
        if value is not None and _is_plain(value):
            wanted[entry.name] = value.data_ptr() % _LINE if value.device.type == "cpu" else 0
    for entry in take(twin).entries:
        tensor, offset = entry.tensor, wanted.get(entry.name)
        if offset is None or id(tensor) in moved or not _is_plain(tensor) or tensor.data_ptr() % _LINE == offset:
            continue
        tensor.data = _at_offset(tensor, offset)
        moved.add(id(tensor))
    return len(moved)


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_meta and tensor.is_contiguous()


def _at_offset(tensor: torch.Tensor, offset: int) -> torch.Tensor:
    room = torch.empty(tensor.nbytes + 2 * _LINE, dtype=torch.uint8)
    start = (offset - room.data_ptr()) % _LINE
    if tensor.nbytes == 0 or start % tensor.element_size():
        return tensor.data
    copy = room[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor.data)
