"""What a reading of a text gives. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAMES = ("bitsandbytes", "accelerate", "accelerate's", "transformers", "diffusers", "cuBLAS", "sentence-transformers")


@dataclass(frozen=True)
class Point:
    """So many points for a cause, and the sentence that says why."""

    cause: str
    points: int
    says: str


def sentence(says: str) -> str:
    """What was said as a sentence; names of code and of libraries stay as they are written.

    >>> sentence("a model was moved"), sentence("torch.compile traced the model")
    ('A model was moved.', 'torch.compile traced the model.')
    """
    first = says.partition(" ")[0]
    as_written = first in _NAMES or re.search(r"\w[._]\w|\(", first)
    return f"{says}." if as_written else f"{says[0].upper()}{says[1:]}."
