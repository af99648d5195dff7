"""What a cell's process is asked and what it sends back: plain values that can be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diag.errors import DiagError, UnsupportedError
from diag.loading.footprint import NOTHING, Packed
from diag.sweep.isolate.deaths import is_out_of_memory
from diag.values.finding import Finding
from diag.values.spec import LoadSpec
from diag.values.text import first_line, sentence
from diag.values.units import format_size

if TYPE_CHECKING:
    import pandas as pd

Free = Mapping[str | int, int]  # free bytes by accelerator index, and of the host under "cpu"


@dataclass(frozen=True)
class Failure:
    """An error as text: the status it means, its class, its message, and why in a sentence."""

    status: str
    error_type: str
    error_text: str
    reason: str


@dataclass(frozen=True)
class Planned:
    """What a plan comes to, small enough to send home. `failure` is set where the load would not begin.

    `fingerprint` changes with the files of checkpoint, adapter and saved request, `loader_fingerprint` with the file
    of the user's loader or probe. `nbytes` is the size of the weight files, `placed` the bytes per device that the
    map places there, `written` the bytes that offloading copies to disk.
    """

    spec: LoadSpec
    fingerprint: str = ""
    nbytes: int = 0
    resolved_map: str | None = None
    packed: Packed = NOTHING
    n_linear: int = 0
    spilled: str = ""
    failure: Failure | None = None
    loader_fingerprint: str = ""
    placed: Mapping[str, int] = field(default_factory=dict)
    written: int = 0


@dataclass(frozen=True)
class Survey:
    """The plans of several specs of one model, and the machine as the planning process found it."""

    plans: tuple[Planned, ...]
    free_memory: Free
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """Specs of one model to plan, or one to load and what to pack; free memory (None: ask), and hub models' folders."""

    specs: tuple[LoadSpec, ...]
    free: Free | None = None
    folders: Mapping[str, str] = field(default_factory=dict)
    packed: Packed = NOTHING


@dataclass(frozen=True)
class Other:
    """A process that held memory on a device. `owner` as in `machine.holders`, or `this run` for another cell."""

    device: str
    program: str
    owner: str
    pid: int | None = None
    nbytes: int | None = None

    def __str__(self) -> str:
        pid = "" if self.pid is None else f"pid {self.pid}, "
        size = "an unknown amount" if self.nbytes is None else format_size(self.nbytes)
        return f"{self.device}: {self.program} ({pid}{self.owner}) held {size}"


@dataclass(frozen=True)
class Measured:
    """One cell: how the load went, where everything is, and the answer (numpy bytes) or the failure.

    `causes` are what a diagnosis of the model or of its error finds, first cause first. `adapter` says in a sentence
    whether the adapter changes the answer. `free_before` and `free_after` are bytes by device, `others` the processes
    that held memory beside this one.
    """

    load_seconds: float | None = None
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    placement: pd.DataFrame | None = None
    answer: bytes | None = None
    exact: bool = True
    dtype: str = "float32"
    n_linear: int = 0
    notes: tuple[str, ...] = ()
    missing_keys: tuple[str, ...] = ()
    failure: Failure | None = None
    packed: Packed = NOTHING
    causes: tuple[Finding, ...] = ()
    adapter: str = ""
    free_before: Mapping[str, int] = field(default_factory=dict)
    free_after: Mapping[str, int] = field(default_factory=dict)
    others: tuple[Other, ...] = ()


def failure_of(error: BaseException, otherwise: str) -> Failure:
    """Which status an error means, and its text; `otherwise` where it is neither a refusal nor out of memory. The
    reason of a refusal is its rule; that of any other DiagError ends with what to do next."""
    status = "unsupported" if isinstance(error, UnsupportedError) else otherwise
    status = "out_of_memory" if is_out_of_memory(error) else status
    reason = first_line(error)
    if isinstance(error, DiagError):
        parts = [error.what, error.why, f"Next: {error.next_step}" if error.next_step else ""]
        parts = [error.why or error.what] if status == "unsupported" else parts
        reason = " ".join(sentence(part) for part in parts if part)
    return Failure(status, type(error).__name__, str(error), reason)
