"""Is one answer equal to another? Pure numbers: no model, no torch."""

from dataclasses import dataclass

import numpy as np

# Where the same kernels run in the same dtype (CPU and simulated GPUs) equal means equal bits. Elsewhere kernels
# differ, and logits may be off by this share of the reference's median size.
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}


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
    differing_nan = np.isnan(a) != np.isnan(b)
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.nan_to_num(a - b, nan=0.0, posinf=np.inf, neginf=np.inf))
    gap[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    gap[differing_nan] = np.inf
    largest = float(gap.max(initial=0.0))
    scale = _typical_size(b)
    agree = float((a.argmax(-1) == b.argmax(-1)).mean()) if b.size else 1.0
    return Distance(largest, _kl(a, b), agree, largest / scale if scale else (0.0 if largest == 0 else np.inf))


def _typical_size(b: np.ndarray) -> float:
    """The median size of what is a number and not zero: models mask logits with -inf or the dtype's lowest number,
    and a mean that counted those would call any difference small."""
    sizes = np.abs(b[np.isfinite(b) & (b != 0)])
    return float(np.median(sizes)) if sizes.size else 0.0


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
