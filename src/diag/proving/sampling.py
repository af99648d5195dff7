"""Samples of a tensor and of its file, and what two samples say about each other. Some kilobytes each."""

import math

import torch

from diag.loading.checkpoint.stored import Source

_ROWS, _COLUMNS = 16, 512  # of each tensor, evenly spaced rows; of stacked experts, more of them
_STACKED_ROWS = 128
_EXPERT = 1024  # elements: a slice that large is lost as a whole or not at all
_UNRELATED = 0.5
_SAME = 0.02  # distance that a cast explains
_HUGE, _TINY = 1e10, 1e-30  # numbers that memory left by others holds, and weights do not


def sample(tensor: torch.Tensor, rows: int = 0) -> torch.Tensor:
    """Evenly spaced rows of it, on the CPU."""
    with torch.no_grad():
        tensor = tensor.detach()
        if tensor.dim() == 0:
            return tensor.reshape(1).cpu()
        rows = rows or _rows(tensor.shape)
        part = tensor[:: max(1, tensor.shape[0] // rows)][:rows]
        return part.reshape(part.shape[0], -1)[:, :_COLUMNS].cpu()


def stored_sample(source: Source, like: torch.Tensor, rows: int = 0) -> torch.Tensor | None:
    """The same rows of what the files hold, in the tensor's dtype; None where shapes differ or nothing can be read."""
    try:
        if source.converter is not None or not source.shape:
            stored = source.read()
            return sample(stored.to(like.dtype), rows) if stored.shape == like.shape else None
        if source.shape != tuple(like.shape):
            return None
        rows = rows or _rows(like.shape)
        step = max(1, source.shape[0] // rows)
        part = torch.cat([source.read(i, i + 1) for i in range(0, source.shape[0], step)][:rows])
        return part.reshape(part.shape[0], -1)[:, :_COLUMNS].to(like.dtype)
    except (OSError, KeyError, RuntimeError, ValueError):
        return None


def compare(here: torch.Tensor, source: Source, like: torch.Tensor) -> str:
    """`same`, `moved`, `lost rows`, `unrelated`, or nothing where a sample does not tell it from its file."""
    there = stored_sample(source, like)
    if there is None:
        return ""
    if unrelated(here, there):
        return "unrelated"
    if has_lost_rows(here, there, like.shape):
        return "lost rows"
    if is_constant(there, spread=0.5):
        return ""  # norms are near 1 in every model: that they agree says nothing
    return "same" if _distance(here.float().flatten(), there.float().flatten()) < _SAME else "moved"


def is_odd(here: torch.Tensor, kind: str, numel: int) -> bool:
    """NaN, infinities or huge numbers; a tensor of infinities alone, or a mask of them, is the user's own start.

    `kind` is that of the tensor, `numel` its size.
    """
    part = here.float()
    largest = float(part.abs().max()) if part.numel() else 0.0
    if math.isfinite(largest):
        return kind == "parameter" and largest > _HUGE
    if bool(torch.isinf(part).all()) and float(part.min()) == float(part.max()):
        return False
    unsaved = kind == "non_persistent_buffer"
    return not (unsaved and (numel == 1 or bool(torch.isneginf(part[~torch.isfinite(part)]).all())))


def looks_left_over(here: torch.Tensor) -> bool:
    """Zeros or numbers near nothing, as fresh memory has them."""
    size = here.float().abs()
    return not bool(size.any()) or bool(((size > 0) & (size < _TINY)).any())


def _rows(shape: torch.Size) -> int:
    return _STACKED_ROWS if len(shape) == 3 and shape[1] * shape[2] >= _EXPERT else _ROWS


def unrelated(here: torch.Tensor, there: torch.Tensor) -> bool:
    """Whether two samples have nothing to do with each other, which little training explains.

    Both a large distance and no common direction are asked for; constant tensors are judged by distance alone.
    """
    a, b = here.float().flatten(), there.float().flatten()
    if a.shape != b.shape or a.numel() == 0 or torch.equal(a, b):
        return False
    if not bool(torch.isfinite(a).all()):
        return True
    distance = _distance(a, b)
    if a.numel() < 8 or is_constant(b):
        return distance > _UNRELATED
    similarity = float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))
    return distance > _UNRELATED and (math.isnan(similarity) or similarity < _UNRELATED)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm()) / max(float(b.norm()), 1e-12)


def is_constant(part: torch.Tensor, spread: float = 1e-3) -> bool:
    """All numbers alike, within a share of their mean: a new norm or bias, which looks the same in every layer."""
    part = part.float()
    return part.numel() < 2 or float(part.std()) < spread * (abs(float(part.mean())) + 1e-12)


def has_lost_rows(here: torch.Tensor, there: torch.Tensor, shape: torch.Size) -> bool:
    """Whether an expert, or neighbouring rows of a weight, are all zero where the file has numbers.

    A single row proves nothing: the row of a padding token is zero on purpose.
    """
    if len(shape) < 2 or here.shape != there.shape or here.shape[-1] < 8:
        return False
    lost = ~here.bool().any(dim=1) & there.bool().any(dim=1)
    if len(shape) == 3 and shape[1] * shape[2] >= _EXPERT:
        return bool(lost.any())
    return bool((lost[1:] & lost[:-1]).any())


def is_low_rank_update(here: torch.Tensor, there: torch.Tensor) -> bool:
    """Whether the difference has few directions, as a merged adapter's has; random or lost values have all of them."""
    a, b = here.float(), there.float()
    if a.dim() != 2 or min(a.shape) < 8 or not bool(torch.isfinite(a).all()) or not bool(a.any()):
        return False
    if float(a.abs().max()) > 1e3 * float(b.abs().max()):
        return False  # a few huge leftovers are few directions too
    energy = torch.linalg.svdvals(a - b) ** 2
    return float(energy[len(energy) // 2 :].sum()) < 0.005 * float(energy.sum())
