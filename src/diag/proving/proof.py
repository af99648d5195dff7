"""prove(): is this model right? Right means equal to its twin (twin.py), and to itself on a second run.

The distance to the unquantized model is a quality figure and decides nothing: honest nf4 on SmolLM2 is further away
than a model with a randomised layer.
"""

from dataclasses import replace

import numpy as np
from torch import nn

from diag.errors import DiagError
from diag.loading.footprint import packed_layers
from diag.loading.origin import spec_for
from diag.models.adapters import carries_adapter
from diag.models.devices import device_name
from diag.models.snapshot import Snapshot, take
from diag.proving.comparing import TOLERANCES, distance
from diag.proving.probing import Answer, ask, makes_ids_on_meta
from diag.proving.twin import answer_of_twin, main_dtype, tokenizer_folder
from diag.values.outcome import Proof
from diag.values.spec import LoadSpec
from diag.values.text import error_line


def prove(model: nn.Module, spec: LoadSpec | None = None) -> Proof:
    """Runs the spec's probe on the model and on its twin, and compares.

    `spec` says what the model should be; it is known for a model that `load` returned, and guessed from
    `config.name_or_path` for one that was loaded from a local folder. Never raises for a model that fails: the proof
    says `not proved` and why. The model is left as it was. The twin takes about as much host memory as its
    checkpoint.
    """
    has_adapter = carries_adapter(model)
    spec = spec or spec_for(model, has_adapter)
    if has_adapter and (spec is None or spec.adapter is None):
        why = "the model carries an adapter, and the spec names none; pass spec=diag.LoadSpec(…, adapter='…')."
        return Proof(None, f"could not be judged: {why}")
    if spec is None:
        return Proof(None, "could not be judged: it is not known which checkpoint this model should equal; pass spec=.")
    try:
        answer = _answer_of(model, spec)
    except DiagError as e:  # the probe is at fault, or there is none: that says nothing about the model
        return Proof(None, f"could not be judged: {e.what} {e.next_step}".rstrip())
    except Exception as e:
        return Proof(False, f"running it raised {error_line(e)}")
    packed, exact, dtype = packed_layers(model), runs_cpu_kernels(model), main_dtype(model)
    reference = answer_of_twin(spec, packed)
    if isinstance(reference, str):
        return Proof(None, reference, probes=(answer.probe,), repeatable=answer.repeatable, answer=answer.text)
    proof = proof_of(answer, reference, exact=exact, dtype=dtype)
    if proof.proved is False and exact and _may_be_rounding(answer, reference, dtype):
        aligned = answer_of_twin(spec, packed, like=model)  # kernels round by the addresses of weights (alignment.py)
        again = None if isinstance(aligned, str) else proof_of(answer, aligned, exact=True, dtype=dtype)
        if again is not None and again.proved:
            return replace(again, reason=f"{again.reason}, with its weights at addresses aligned as here")
    return proof


def _answer_of(model: nn.Module, spec: LoadSpec) -> Answer:
    """The model's answer; its forward alone where generate() can't work with this map, for no fault of the model."""
    folder = tokenizer_folder(spec)
    try:
        return ask(model, spec.probe, folder)
    except (NotImplementedError, RuntimeError) as error:
        why = makes_ids_on_meta(model, error)
        if not why:
            raise
    return replace(ask(model, spec.probe, folder, generate=False), not_asked=why)


def _may_be_rounding(answer: Answer, reference: Answer, dtype: str) -> bool:
    """Whether the answers differ by no more than another order of additions can do."""
    if answer.outputs.shape != reference.outputs.shape:
        return False
    return distance(answer.outputs, reference.outputs).relative <= TOLERANCES.get(dtype, 1e-3)


def proof_of(answer: Answer, reference: Answer, *, exact: bool, dtype: str) -> Proof:
    """What two answers show. `exact` demands equal bits; otherwise `TOLERANCES[dtype]` is allowed. Pure."""
    tolerance = 0.0 if exact else TOLERANCES.get(dtype, 1e-3)
    generation = ("generation",) if reference.tokens and not answer.not_asked else ()
    proof = Proof(
        False,
        "",
        (answer.probe, *generation),
        repeatable=answer.repeatable,
        tolerance=tolerance,
        answer=answer.text,
        forward_seconds=answer.seconds,
        reference="twin on the CPU",
    )
    if answer.problem:
        return replace(proof, reason=answer.problem)
    if answer.outputs.shape != reference.outputs.shape:
        shapes = f"{answer.outputs.shape} instead of {reference.outputs.shape}"
        return replace(proof, reason=f"its answer has the shape {shapes}")
    if reference.outputs.size and not np.isfinite(reference.outputs).any():
        return replace(proof, proved=None, reason="could not be judged: the twin itself answers with no finite number")
    d = distance(answer.outputs, reference.outputs)
    proof = replace(proof, max_abs_diff=d.max_abs_diff, kl_divergence=d.kl_divergence, top1_agreement=d.top1_agreement)
    wrong = ""
    if not answer.repeatable:
        wrong = "two runs of the same input gave different answers"
    elif reference.unfilled:
        wrong = unfilled_sentence(reference.unfilled)
    elif (exact and d.max_abs_diff > 0) or d.relative > tolerance:
        size = f"its answer differs by up to {d.max_abs_diff:.3g} (KL {d.kl_divergence:.3g} nats)"
        wrong = f"{size} from the same checkpoint loaded on the CPU"
    return replace(proof, reason=wrong) if wrong else _with_tokens(proof, answer, reference, exact)


def _with_tokens(proof: Proof, answer: Answer, reference: Answer, exact: bool) -> Proof:
    """The proof for answers that agree: proved, but for the tokens that were generated."""
    if answer.not_asked and reference.tokens:
        return replace(proof, proved=None, reason=f"could not be judged: its forward agrees, and {answer.not_asked}")
    if answer.tokens != reference.tokens:
        reason = "the logits agree, and the generated tokens differ from the twin's"
        if exact or not answer.tokens:
            return replace(proof, reason=reason)
        return replace(proof, proved=None, reason=f"could not be judged: {reason}, which other kernels may explain")
    how = "bit for bit" if exact else f"within {proof.tolerance:g} of the reference's size"
    count = f"{len(proof.probes)} probe{'s' * (len(proof.probes) != 1)}"
    return replace(proof, proved=True, reason=f"equal to the same checkpoint on the CPU, {how}, for {count}, twice")


def unfilled_sentence(keys: tuple[str, ...]) -> str:
    """Why an answer that needs these tensors proves nothing."""
    many = f"{len(keys)} tensors of the model, {keys[0]!r} among them" if len(keys) > 1 else repr(keys[0])
    return (
        f"the checkpoint lacks {many}: newly initialised, so neither this answer nor that of the same checkpoint "
        "on the CPU is the model's"
    )


def runs_cpu_kernels(model: nn.Module | Snapshot) -> bool:
    """True when everything runs on the CPU or on simulated GPUs, where the twin must agree bit for bit."""
    snapshot = take(model)
    used = {entry.device.type for entry in snapshot.entries}
    hooked = (hook.execution_device for hook in snapshot.hooks.hooks)
    used |= {device_name(one, snapshot.accelerator).partition(":")[0] for one in hooked if one is not None}
    return used <= {"cpu", "meta", "simgpu"}
