"""Makes a Finding out of a cause of the catalogue and the evidence for it."""

from __future__ import annotations

import re

from diag.diagnosis import causes
from diag.values.finding import Finding

_VERBS = {"are": "is", "have": "has", "hold": "holds", "differ": "differs"}
_VERBS_PATTERN = rf"\b(?:{'|'.join(_VERBS)})\b"


def make(
    cause: str,
    certainty: str,
    tensors: tuple[str, ...] = (),
    *,
    module: str = "",
    because: tuple[str, ...] = (),
    check: tuple[str, ...] = (),
    silent: bool | None = None,
) -> Finding:
    """A finding in the catalogue's words. `silent` overrides its severity; fixes are added by the engine."""
    entry = causes.get(cause)
    severity = entry.severity
    if silent is not None and severity != "info":
        severity = "silent" if silent else "error"
    return Finding(
        cause=cause,
        certainty=certainty,
        severity=severity,
        title=entry.title,
        tensors=tensors,
        module=module or _common_module(tensors),
        because=because,
        avoid=entry.avoid,
        sources=entry.links[:4],
        check=check,
    )


def counted(count: int, do: str) -> str:
    """`3 tensors have no data` or `1 tensor has no data`."""
    if count != 1:
        return f"{count} tensors {do}"
    return f"1 tensor {re.sub(_VERBS_PATTERN, lambda found: _VERBS[found[0]], do)}"


def _common_module(tensors: tuple[str, ...]) -> str:
    """The path that all names share, in whole parts."""
    if not tensors:
        return ""
    paths = [name.split(".")[:-1] for name in tensors]
    shared = []
    for parts in zip(*paths):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
