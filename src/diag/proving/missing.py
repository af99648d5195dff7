"""Which tensors that a checkpoint lacks spoil the answer: those of the model's body, not of a new task head."""

from collections.abc import Iterable
from typing import Any

from diag.models.adapters import without_adapter

_UNUSED_BY_THE_ANSWER = ("pooler",)  # of encoders: beside the last hidden state


def missing_from_body(model: Any, missing_keys: Iterable[str]) -> tuple[str, ...]:
    """The newly initialised tensors that the answer needs, without those that belong to a head put on a base model.

    A classifier on a base checkpoint is meant to be trained; a language head, or a layer, is not. `missing_keys` are
    those of `from_pretrained`, which leaves out tied weights and what a model makes by itself.
    """
    base = without_adapter(model)
    needed = _needed_parts(base)
    buffers = dict(base.named_buffers())
    return tuple(
        key for key in missing_keys
        if (needed is None or key.split(".")[0] in needed)
        and not any(part in _UNUSED_BY_THE_ANSWER for part in key.split("."))
        and not (key in buffers and not buffers[key].is_floating_point())  # positions are counted, not learned
    )  # fmt: skip


def _needed_parts(base: Any) -> set[str] | None:
    """The children that are the body and the language head; None for a model that is all body."""
    prefix = getattr(base, "base_model_prefix", "")
    if not prefix or not hasattr(base, prefix):
        return None
    parts = {prefix.split(".")[0]}
    try:
        head = base.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is not None:
        parts |= {name.split(".")[0] for name, module in base.named_modules() if module is head}
    return parts
