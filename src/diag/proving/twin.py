"""The twin of a model, and its answer: the same checkpoint, dtype and quantization, with the same modules packed, on
the CPU without a map. Where the host has no room it is loaded disk-offloaded on the CPU, which is exact."""

import copy
import gc
from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from diag.errors import DiagError
from diag.loading.bitsandbytes_private import use_common_kernel
from diag.loading.checkpoint.find import find_checkpoint
from diag.loading.footprint import Packed, is_packed_class, linear_layers
from diag.loading.planning import Plan, plan_load
from diag.loading.recipe import load, load_planned
from diag.loading.transformers_private import skeleton
from diag.machine.accelerators import free_memory
from diag.models.adapters import without_adapter
from diag.proving.alignment import align_like
from diag.proving.probing import Answer, ask
from diag.values.outcome import LoadOutcome
from diag.values.spec import LoadSpec
from diag.values.text import error_line

_UNUSED_BY_THE_ANSWER = ("pooler",)  # of encoders: beside the last hidden state


def answer_of_twin(spec: LoadSpec, packed: Packed, like: nn.Module | None = None) -> Answer | str:
    """The twin's answer to the spec's probe, or in a sentence why there is none.

    `packed` are the modules that the model holds packed; with `like`, weights begin at addresses like that model's.
    """
    twin = load_twin(spec, packed)
    if twin.model is None:
        return f"no twin could be had: {error_line(twin.error)}"
    try:
        if like is not None:
            align_like(twin.model, like)
        answer = ask(twin.model, spec.probe, tokenizer_folder(spec))
        unfilled = missing_from_body(twin.model, twin.missing_keys)
        return replace(answer, unfilled=unfilled, dtype=main_dtype(twin.model))
    except Exception as e:
        return f"the twin itself failed: {error_line(e)}"
    finally:
        del twin
        gc.collect()


def load_twin(spec: LoadSpec, packed: Packed) -> LoadOutcome:
    """Loads the twin with just these modules packed; disk-offloaded where the host has no room for it."""
    twin = spec.replace(device_map="none", hardware=None, max_memory=None, offload_folder=None, loader=None)
    try:
        plan = _packing_only(_on_cpu(plan_load(twin)), packed)
    except Exception as e:
        return LoadOutcome(twin, error=e)
    if plan.checkpoint.nbytes * 1.1 > free_memory().get("cpu", 0) and not packed.names:
        return load(twin.replace(device_map="disk"))
    outcome = load_planned(plan)
    if outcome.model is not None and not packed.fused:
        use_common_kernel(outcome.model)
    return outcome


def _on_cpu(plan: Plan) -> Plan:
    """The plan for the CPU even where an accelerator is present: bitsandbytes would pick it without a map."""
    if plan.arguments["quantization_config"] is None:
        return plan
    return replace(plan, arguments={**plan.arguments, "device_map": {"": "cpu"}}, resolved_map={"": "cpu"})


def _packing_only(plan: Plan, packed: Packed) -> Plan:
    """Leaves those modules unquantized that the candidate holds unquantized (offloaded ones, say).

    Naming modules to skip switches off transformers' own choice (the head), so those are named too.
    """
    config, kind = plan.arguments["quantization_config"], plan.model_class
    skipped = sorted(set(plan.packed.names) - set(packed.names))
    if kind is None or not skipped or not hasattr(config, "llm_int8_skip_modules"):
        return plan
    arguments = {**plan.arguments, "device_map": {"": "cpu"}}
    layers = linear_layers(skeleton(kind, str(plan.checkpoint.folder), **arguments).model)
    by_default = [name for name, module in layers if not is_packed_class(module)]
    config = copy.deepcopy(config)
    config.llm_int8_skip_modules = [*by_default, *skipped]
    return replace(plan, arguments={**plan.arguments, "quantization_config": config}, packed=packed)


def tokenizer_folder(spec: LoadSpec) -> str | None:
    """Where the tokenizer of a spec's model is; None where its checkpoint can't be read."""
    try:
        return str(find_checkpoint(spec.model).folder)
    except DiagError:
        return None


def main_dtype(model: nn.Module) -> str:
    """The dtype most elements are computed in."""
    return str(getattr(model, "dtype", "float32")).removeprefix("torch.")


def missing_from_body(model: nn.Module, missing_keys: Iterable[str]) -> tuple[str, ...]:
    """The newly initialised tensors that the answer needs, without those that belong to a head put on a base model.

    A classifier on a base checkpoint is meant to be trained; a language head, or a layer, is not. `missing_keys` are
    those of `from_pretrained`, which leaves out tied weights and what a model makes by itself.
    """
    base = without_adapter(model)
    needed = _needed_parts(base)
    counted = {name for name, buffer in base.named_buffers() if not buffer.is_floating_point()}  # such as positions
    missing = []
    for key in missing_keys:
        parts = key.split(".")
        is_needed = (needed is None or parts[0] in needed) and not set(parts).intersection(_UNUSED_BY_THE_ANSWER)
        if is_needed and key not in counted:
            missing.append(key)
    return tuple(missing)


def _needed_parts(base: nn.Module) -> set[str] | None:
    """The children that are the body and the language head; None for a model that is all body."""
    prefix = str(getattr(base, "base_model_prefix", ""))
    if not prefix or not hasattr(base, prefix):
        return None
    try:
        head = base.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    heads = {name.split(".")[0] for name, module in base.named_modules() if head is not None and module is head}
    return {prefix.split(".")[0], *heads}
