"""Makes a Finding out of a cause of the catalogue and the evidence for it."""

from __future__ import annotations

from diag.diagnosis import causes
from diag.diagnosis.finding import Finding


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
