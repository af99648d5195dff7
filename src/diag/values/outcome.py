"""What a load gave, and what a check of it showed: two values that travel together. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diag.values.showing import Shown
from diag.values.spec import LoadSpec
from diag.values.units import format_seconds


@dataclass(frozen=True)
class Proof(Shown):
    """Whether a loaded model gives the answer of its twin, and itself twice.

    The twin is the same checkpoint, dtype and quantization, with the same modules packed, on the CPU without a map.
    `proved` is True (equal within `tolerance`, and repeatable), False (differs), or None (could not be judged);
    `reason` says why in a sentence. `max_abs_diff` is in logits (or hidden-state units for an encoder),
    `kl_divergence` in nats per token, `top1_agreement` a share between 0 and 1. `quality_kl` is the distance to the
    unquantized model; it decides nothing. `probes` names what was run; `answer` is the model's text for it.
    """

    proved: bool | None
    reason: str
    probes: tuple[str, ...] = ()
    max_abs_diff: float | None = None
    kl_divergence: float | None = None
    top1_agreement: float | None = None
    repeatable: bool | None = None
    quality_kl: float | None = None
    tolerance: float | None = None
    reference: str = ""
    answer: str = ""
    forward_seconds: float | None = None

    def __str__(self) -> str:
        return f"{'proved' if self.proved else 'not proved'}: {self.reason}"

    def __repr__(self) -> str:
        return f"Proof({self.proved}, {self.reason!r})"


@dataclass(frozen=True)
class LoadOutcome(Shown):
    """A model or an error, never both.

    `seconds` is the load alone; `peak_bytes` maps each device (`cpu`, `cuda:0`, `simgpu:1`, …) to the peak in bytes
    during the load, for `cpu` the rise above the level before it. `resolved_map` is the map that the load asked
    for or worked out (None: no map); `missing_keys` are tensors the checkpoint did not have; `notes` are the
    warnings that were logged. `proof` is None until it was checked.
    """

    spec: LoadSpec
    model: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    proof: Proof | None = None
    resolved_map: Mapping[str, str | int] | None = None
    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()
    mismatched_keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def simulated(self) -> bool:
        return self.spec.simulated

    def __repr__(self) -> str:
        state = type(self.model if self.ok else self.error).__name__
        where = " (simulated)" if self.simulated else ""
        return f"LoadOutcome({self.spec!r}{where}: {state} in {format_seconds(self.seconds)})"
