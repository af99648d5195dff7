"""An answer in 64 numbers that keep its distances: enough to say later, elsewhere, how far another answer is off. Pure.

A count sketch: every element goes with a sign into one of 64 buckets, both drawn from its position. The distance of
two sketches estimates the distance of what was sketched, to about a fifth. Source: Charikar, Chen, Farach-Colton,
"Finding frequent items in data streams", 2002.
"""

import base64

import numpy as np

BUCKETS = 64
_STEP, _ONE, _TWO = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def sketch(values: np.ndarray) -> str:
    """The sketch as text: 64 little-endian float32, base64. Empty for values that are not finite."""
    flat = np.ascontiguousarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(flat).all():
        return ""
    mixed = _mixed(flat.size)
    signed = np.where((mixed >> np.uint64(63)).astype(bool), flat, -flat)
    sums = np.bincount((mixed % np.uint64(BUCKETS)).astype(np.int64), weights=signed, minlength=BUCKETS)
    return base64.b64encode(sums.astype("<f4").tobytes()).decode()


def relative_distance(one: str, other: str) -> float | None:
    """About |a - b| / |b| for what was sketched; None where one of them is no sketch."""
    a, b = numbers_in(one), numbers_in(other)
    if a is None or b is None:
        return None
    size, gap = float(np.linalg.norm(b)), float(np.linalg.norm(a - b))
    return gap / size if size else (0.0 if gap == 0 else float("inf"))


def numbers_in(text: str) -> np.ndarray | None:
    """The numbers of a sketch; None for a text that is none."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    except (ValueError, TypeError):
        return None
    return values.astype(np.float64) if values.size == BUCKETS and np.isfinite(values).all() else None


def _mixed(count: int) -> np.ndarray:
    """splitmix64 of 1 … count: the same for ever, whatever the version of numpy."""
    with np.errstate(over="ignore"):
        mixed = np.arange(1, count + 1, dtype=np.uint64) * _STEP
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _ONE
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _TWO
        return mixed ^ (mixed >> np.uint64(31))
