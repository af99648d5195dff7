"""prove(): is this model right? Right means equal to its twin (twin.py), and to itself on a second run.

The distance to the unquantized model is a quality figure and decides nothing: honest nf4 on SmolLM2 is further away
than a model with a randomised layer.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from diag.errors import DiagError
from diag.loading.footprint import packed_layers
from diag.loading.origin import spec_for
from diag.loading.planning import Plan
from diag.models.devices import device_name, input_device
from diag.models.snapshot import Snapshot, take
from diag.proving.probing import Answer, ask, makes_ids_on_meta
from diag.proving.twin import answer_of_twin, main_dtype, plan_of_twin, tokenizer_folder
from diag.values.outcome import Proof
from diag.values.spec import LoadSpec
from diag.values.text import error_line

# Where the same kernels run in the same dtype (CPU and simulated GPUs) equal means equal bits. Elsewhere kernels
# differ, and logits may be off by this share of the reference's median size.
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}


def prove(model: nn.Module, spec: LoadSpec | None = None) -> Proof:
    """Runs the spec's probe on the model and on its twin, and compares.

    `spec` says what the model should be; it is known for a model that `load` returned, and guessed from
    `config.name_or_path` for one that was loaded from a local folder. Never raises for a model that fails: the proof
    says `not proved` and why. The model is left as it was. The twin takes about as much host memory as its
    checkpoint.
    """
    try:
        snapshot = take(model)
    except DiagError as e:
        return Proof(None, f"could not be judged: {e.what} {e.next_step}".rstrip())
    spec = spec or spec_for(model, snapshot.carries_adapter)
    if snapshot.carries_adapter and (spec is None or spec.adapter is None):
        why = "the model carries an adapter, and the spec names none; pass spec=diag.LoadSpec(…, adapter='…')."
        return Proof(None, f"could not be judged: {why}")
    if spec is None:
        return Proof(None, "could not be judged: it is not known which checkpoint this model should equal; pass spec=.")
    packed, exact, dtype = packed_layers(model), runs_cpu_kernels(snapshot), main_dtype(model)
    twin = plan_of_twin(spec, packed)
    folder = str(twin.checkpoint.folder) if isinstance(twin, Plan) else tokenizer_folder(spec)
    try:
        answer = _answer_of(model, spec, folder, input_device(snapshot))
    except DiagError as e:  # the probe is at fault, or there is none: that says nothing about the model
        return Proof(None, f"could not be judged: {e.what} {e.next_step}".rstrip())
    except Exception as e:
        return Proof(False, f"running it raised {error_line(e)}")
    reference = answer_of_twin(spec, packed, twin)
    if isinstance(reference, str):
        return Proof(None, reference, probes=(answer.probe,), repeatable=answer.repeatable, answer=answer.text)
    proof = proof_of(answer, reference, exact=exact, dtype=dtype)
    if proof.proved is False and exact and _may_be_rounding(answer, reference, dtype):
        aligned = answer_of_twin(spec, packed, twin, like=snapshot)
        again = None if isinstance(aligned, str) else proof_of(answer, aligned, exact=True, dtype=dtype)
        if again is not None and again.proved:
            return replace(again, reason=f"{again.reason}, with its weights at addresses aligned as here")
    return proof


def _answer_of(model: nn.Module, spec: LoadSpec, folder: str | None, device: torch.device) -> Answer:
    """The model's answer; its forward alone where generate() can't work with this map, for no fault of the model."""
    try:
        return ask(model, spec.probe, folder, device=device)
    except (NotImplementedError, RuntimeError) as error:
        why = makes_ids_on_meta(model, error)
        if not why:
            raise
    return replace(ask(model, spec.probe, folder, generate=False, device=device), not_asked=why)


def _may_be_rounding(answer: Answer, reference: Answer, dtype: str) -> bool:
    """Whether the answers differ by no more than another order of additions can do, as addresses of weights cause."""
    here, there = answer.outputs, reference.outputs
    return here.shape == there.shape and distance(here, there).relative <= TOLERANCES.get(dtype, 1e-3)


def proof_of(answer: Answer, reference: Answer, *, exact: bool, dtype: str) -> Proof:
    """What two answers show. `exact` demands equal bits; otherwise `TOLERANCES[dtype]` is allowed. Pure."""
    tolerance = 0.0 if exact else TOLERANCES.get(dtype, 1e-3)
    probes = (answer.probe, "generation") if reference.tokens and not answer.not_asked else (answer.probe,)
    proof = Proof(False, "", probes, tolerance=tolerance, reference="twin on the CPU", answer=answer.text)
    proof = replace(proof, repeatable=answer.repeatable, forward_seconds=answer.seconds)
    if answer.problem:
        return replace(proof, reason=answer.problem)
    if answer.outputs.shape != reference.outputs.shape:
        shapes = f"{answer.outputs.shape} instead of {reference.outputs.shape}"
        return replace(proof, reason=f"its answer has the shape {shapes}")
    if reference.outputs.size and not np.isfinite(reference.outputs).any():
        return replace(proof, proved=None, reason="could not be judged: the twin itself answers with no finite number")
    d = distance(answer.outputs, reference.outputs)
    proof = replace(proof, max_abs_diff=d.max_abs_diff, kl_divergence=d.kl_divergence, top1_agreement=d.top1_agreement)
    if not answer.repeatable:
        return replace(proof, reason="two runs of the same input gave different answers")
    if reference.unfilled:
        first, count = reference.unfilled[0], len(reference.unfilled)
        lacking = repr(first) if count == 1 else f"{count} tensors of the model, {first!r} among them"
        alike = "neither this answer nor that of the same checkpoint on the CPU is the model's"
        return replace(proof, reason=f"the checkpoint lacks {lacking}: newly initialised, so {alike}")
    if (exact and d.max_abs_diff > 0) or d.relative > tolerance:
        size = f"its answer differs by up to {d.max_abs_diff:.3g} (KL {d.kl_divergence:.3g} nats)"
        return replace(proof, reason=f"{size} from the same checkpoint loaded on the CPU")
    return _with_tokens(proof, answer, reference, exact)


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


def runs_cpu_kernels(snapshot: Snapshot) -> bool:
    """True when everything runs on the CPU or on simulated GPUs, where the twin must agree bit for bit."""
    used = {entry.device.type for entry in snapshot.entries}
    hooked = (hook.execution_device for hook in snapshot.hooks.hooks)
    used |= {device_name(one, snapshot.accelerator).partition(":")[0] for one in hooked if one is not None}
    return used <= {"cpu", "meta", "simgpu"}


# --- how far apart two answers are: numbers alone ---------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """How far apart two (positions, vocabulary) arrays are.

    `max_abs_diff` in logits, `kl_divergence` in nats per position (reference against other), `top1_agreement` a
    share, `relative` the largest difference as a share of the reference's median size.
    """

    max_abs_diff: float
    kl_divergence: float
    top1_agreement: float
    relative: float


def distance(other: np.ndarray, reference: np.ndarray) -> Distance:
    """NaN where only one side has it counts as infinitely far."""
    a, b = other.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.nan_to_num(a - b, nan=0.0, posinf=np.inf, neginf=np.inf))
    gap[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    gap[np.isnan(a) != np.isnan(b)] = np.inf
    largest = float(gap.max(initial=0.0))
    # Models mask logits with -inf or the dtype's lowest number: a mean with those would call any difference small.
    sizes = np.abs(b[np.isfinite(b) & (b != 0)])
    scale = float(np.median(sizes)) if sizes.size else 0.0
    agree = float((a.argmax(-1) == b.argmax(-1)).mean()) if b.size else 1.0
    return Distance(largest, _kl(a, b), agree, largest / scale if scale else (0.0 if largest == 0 else np.inf))


def _kl(a: np.ndarray, b: np.ndarray) -> float:
    if not b.size:
        return 0.0
    with np.errstate(all="ignore"):
        log_a, log_b = _log_softmax(a), _log_softmax(b)
        per_position = np.where(np.exp(log_b) > 0, np.exp(log_b) * (log_b - log_a), 0.0).sum(-1)
    value = float(per_position.mean())
    return max(0.0, value) if np.isfinite(value) else float("inf")


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
