"""prove(): is this model right? Right means equal to its twin, and to itself on a second run.

The twin is the same checkpoint, dtype and quantization, with the same modules packed, loaded on the CPU without a map
(disk-offloaded on the CPU where the host has no room; that is exact). The distance to the unquantized model is a
quality figure and decides nothing: honest nf4 on SmolLM2 is further away than a model with a randomised layer.
"""

import gc
from dataclasses import replace
from typing import Any

import numpy as np

from diag.errors import DiagError
from diag.loading.bitsandbytes_private import use_common_kernel
from diag.loading.footprint import Packed, is_packed_class, packed_layers
from diag.loading.origin import spec_for
from diag.loading.planning import Plan, plan_load
from diag.loading.recipe import load, load_planned
from diag.machine.accelerators import free_memory
from diag.models.adapters import carries_adapter
from diag.models.devices import device_name
from diag.models.snapshot import take
from diag.proving.alignment import align_like
from diag.proving.comparing import TOLERANCES, distance
from diag.proving.missing import missing_from_body
from diag.proving.probing import Answer, ask, makes_ids_on_meta
from diag.values.outcome import LoadOutcome, Proof
from diag.values.spec import LoadSpec
from diag.values.text import first_line


def prove(model: Any, spec: LoadSpec | None = None) -> Proof:
    """Runs the spec's probe on the model and on its twin, and compares.

    `spec` says what the model should be; it is known for a model that `load` returned, and guessed from
    `config.name_or_path` for one that was loaded from a local folder. Never raises for a model that fails: the proof
    says `not proved` and why. The model is left as it was. The twin takes about as much host memory as its
    checkpoint.
    """
    spec = spec or spec_for(model)
    if carries_adapter(model) and (spec is None or spec.adapter is None):
        why = "the model carries an adapter, and the spec names none; pass spec=diag.LoadSpec(…, adapter='…')."
        return Proof(None, f"could not be judged: {why}")
    if spec is None:
        return Proof(None, "could not be judged: it is not known which checkpoint this model should equal; pass spec=.")
    try:
        answer = _asked(model, spec)
    except DiagError as e:  # the probe is at fault, or there is none: that says nothing about the model
        return Proof(None, f"could not be judged: {e.what} {e.next_step}".rstrip())
    except Exception as e:
        return Proof(False, f"running it raised {type(e).__name__}: {first_line(e)}")
    packed, exact = packed_layers(model), runs_cpu_kernels(model)
    reference = reference_answer(spec, packed)
    if isinstance(reference, str):
        return Proof(None, reference, probes=(answer.probe,), repeatable=answer.repeatable, answer=answer.text)
    proof = judge(answer, reference, exact=exact, dtype=main_dtype(model))
    if proof.proved is not False or not exact or not _is_rounding(answer, reference, main_dtype(model)):
        return proof
    return _judged_aligned(model, answer, spec, packed, proof)


def _asked(model: Any, spec: LoadSpec) -> Answer:
    """The model's answer; its forward alone where generate() can't work with this map, for no fault of the model."""
    try:
        return ask(model, spec.probe, tokenizer_folder(spec))
    except (NotImplementedError, RuntimeError) as error:
        why = makes_ids_on_meta(model, error)
        if not why:
            raise
    return replace(ask(model, spec.probe, tokenizer_folder(spec), generate=False), not_asked=why)


def _is_rounding(answer: Answer, reference: Answer, dtype: str) -> bool:
    """Whether the answers differ by no more than another order of additions can do."""
    if answer.outputs.shape != reference.outputs.shape:
        return False
    return distance(answer.outputs, reference.outputs).relative <= TOLERANCES.get(dtype, 1e-3)


def _judged_aligned(model: Any, answer: Answer, spec: LoadSpec, packed: Packed, proof: Proof) -> Proof:
    """Judges by a twin whose weights begin at addresses like the model's: kernels round by them (alignment.py)."""
    reference = reference_answer(spec, packed, like=model)
    if isinstance(reference, str):
        return proof
    again = judge(answer, reference, exact=True, dtype=main_dtype(model))
    if not again.proved:
        return proof
    return replace(again, reason=f"{again.reason}, with its weights at addresses aligned as here")


def judge(answer: Answer, reference: Answer, *, exact: bool, dtype: str) -> Proof:
    """Pure: what the two answers show. `exact` demands equal bits; otherwise `TOLERANCES[dtype]` is allowed."""
    tolerance = 0.0 if exact else TOLERANCES.get(dtype, 1e-3)
    probes = (answer.probe, *(("generation",) if reference.tokens and not answer.not_asked else ()))
    base = Proof(False, "", probes, repeatable=answer.repeatable, tolerance=tolerance, answer=answer.text,
                 forward_seconds=answer.seconds, reference="twin on the CPU")  # fmt: skip
    if answer.problem:
        return replace(base, reason=answer.problem)
    if answer.outputs.shape != reference.outputs.shape:
        shapes = f"{answer.outputs.shape} instead of {reference.outputs.shape}"
        return replace(base, reason=f"its answer has the shape {shapes}")
    if reference.outputs.size and not np.isfinite(reference.outputs).any():
        return replace(base, proved=None, reason="could not be judged: the twin itself answers with no finite number")
    d = distance(answer.outputs, reference.outputs)
    base = replace(base, max_abs_diff=d.max_abs_diff, kl_divergence=d.kl_divergence, top1_agreement=d.top1_agreement)
    if not answer.repeatable:
        return replace(base, reason="two runs of the same input gave different answers")
    if reference.unfilled:
        return replace(base, reason=unfilled_sentence(reference.unfilled))
    if (exact and d.max_abs_diff > 0) or d.relative > tolerance:
        size = f"its answer differs by up to {d.max_abs_diff:.3g} (KL {d.kl_divergence:.3g} nats)"
        return replace(base, reason=f"{size} from the same checkpoint loaded on the CPU")
    if answer.not_asked and reference.tokens:
        reason = f"could not be judged: its forward agrees, and {answer.not_asked}"
        return replace(base, proved=None, reason=reason)
    if answer.tokens != reference.tokens:
        reason = "the logits agree, and the generated tokens differ from the twin's"
        if exact or not answer.tokens:
            return replace(base, reason=reason)
        return replace(base, proved=None, reason=f"could not be judged: {reason}, which other kernels may explain")
    how = "bit for bit" if exact else f"within {tolerance:g} of the reference's size"
    return replace(base, proved=True, reason=f"equal to the same checkpoint on the CPU, {how}, for {len(probes)} "
                   f"probe{'s' * (len(probes) != 1)}, twice")  # fmt: skip


def unfilled_sentence(keys: tuple[str, ...]) -> str:
    many = f"{len(keys)} tensors of the model, {keys[0]!r} among them" if len(keys) > 1 else repr(keys[0])
    return (
        f"the checkpoint lacks {many}: newly initialised, so neither this answer nor that of the same checkpoint "
        "on the CPU is the model's"
    )


def twin_spec(spec: LoadSpec) -> LoadSpec:
    """The spec of the twin: the same model on this machine's CPU, without a map."""
    return spec.replace(device_map="none", hardware=None, max_memory=None, offload_folder=None, loader=None)


def load_twin(spec: LoadSpec, packed: Packed) -> LoadOutcome:
    """Loads the twin with just these modules packed; disk-offloaded where the host has no room for it."""
    twin = twin_spec(spec)
    try:
        plan = _plan_on_cpu(twin)
        plan = _packing_only(plan, packed)
    except Exception as e:
        return LoadOutcome(twin, error=e)
    if plan.checkpoint.nbytes * 1.1 > free_memory().get("cpu", 0) and not packed.names:
        return load(twin.replace(device_map="disk"))
    outcome = load_planned(plan)
    if outcome.model is not None and not packed.fused:
        use_common_kernel(outcome.model)
    return outcome


def reference_answer(spec: LoadSpec, packed: Packed, like: Any = None) -> Answer | str:
    """The twin's answer to the spec's probe, or in a sentence why there is none; `like` a model: aligned as it is."""
    twin = load_twin(spec, packed)
    if twin.model is None:
        return f"no twin could be had: {type(twin.error).__name__}: {first_line(twin.error)}"
    try:
        if like is not None:
            align_like(twin.model, like)
        answer = ask(twin.model, spec.probe, tokenizer_folder(spec))
        unfilled = missing_from_body(twin.model, twin.missing_keys)
        return replace(answer, unfilled=unfilled, dtype=main_dtype(twin.model))
    except Exception as e:
        return f"the twin itself failed: {type(e).__name__}: {first_line(e)}"
    finally:
        del twin
        gc.collect()


def runs_cpu_kernels(model: Any) -> bool:
    """True when everything runs on the CPU or on simulated GPUs, where the twin must agree bit for bit."""
    snapshot = take(model)
    used = {entry.device.type for entry in snapshot.entries}
    hooked = (hook.execution_device for hook in snapshot.hooks.hooks)
    used |= {device_name(one, snapshot.accelerator).partition(":")[0] for one in hooked if one is not None}
    return used <= {"cpu", "meta", "simgpu"}


def main_dtype(model: Any) -> str:
    """The dtype most elements are computed in."""
    return str(getattr(model, "dtype", "float32")).removeprefix("torch.")


def _plan_on_cpu(twin: LoadSpec) -> Plan:
    """Plans for the CPU even where an accelerator is present: bitsandbytes would pick it without a map."""
    plan = plan_load(twin)
    if plan.arguments.get("quantization_config") is not None:
        return replace(plan, arguments={**plan.arguments, "device_map": {"": "cpu"}}, resolved_map={"": "cpu"})
    return plan


def _packing_only(plan: Plan, packed: Packed) -> Plan:
    """Leaves those modules unquantized that the candidate holds unquantized (offloaded ones, say)."""
    config = plan.arguments.get("quantization_config")
    skipped = sorted(set(plan.packed.names) - set(packed.names))
    if config is None or not skipped or not hasattr(config, "llm_int8_skip_modules"):
        return plan
    import copy

    config = copy.deepcopy(config)
    config.llm_int8_skip_modules = [*_default_skips(plan), *skipped]
    return replace(plan, arguments={**plan.arguments, "quantization_config": config}, packed=packed)


def _default_skips(plan: Plan) -> list[str]:
    """Naming modules to skip switches off transformers' own choice (the head), so that is named too."""
    from diag.loading.footprint import linear_layers
    from diag.loading.transformers_private import skeleton

    assert plan.model_class is not None, "a plan for a loader of one's own has no twin of ours"
    arguments = {**plan.arguments, "device_map": {"": "cpu"}}
    model = skeleton(plan.model_class, str(plan.checkpoint.folder), **arguments).model
    return [name for name, module in linear_layers(model) if not is_packed_class(module)]


def tokenizer_folder(spec: LoadSpec) -> str | None:
    from diag.loading.checkpoint.find import find_checkpoint

    try:
        return str(find_checkpoint(spec.model).folder)
    except DiagError:
        return None
