"""Everything a diagnosis may use, as one frozen value: rows of the table, facts of the model, the error, the text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from diag.diagnosis.evidence.report import Report
from diag.values.spec import LoadSpec


@dataclass(frozen=True)
class Row:
    """One tensor name: the placement table's columns that rules need, and why nobody holds it (empty if somebody)."""

    name: str
    kind: str
    module: str
    module_class: str
    dtype: str
    device: str
    mapped_device: str
    execution_device: str
    backing: str
    quantization: str
    tied_group: int
    numel: int
    nbytes: int
    reason: str = ""
    undecided: bool = False

    @property
    def local_name(self) -> str:
        return self.name.removeprefix(f"{self.module}.") if self.module else self.name

    @property
    def is_orphan(self) -> bool:
        """On meta, and nobody has its data."""
        return self.backing == "none"


@dataclass(frozen=True)
class ModelFacts:
    """What the table does not show, read from the modules; names only.

    `stripped` are modules whose accelerate hook was taken off (it leaves a trace), `hooked` those that carry one,
    `newcomers` those that were not there when the model was loaded. `wrong_values` differ from the checkpoint beyond
    training, `never_loaded` are those of a model that no file was ever read into, `lost_rows` are zero in part.
    `not_stored` are in no file (`renamed`: but under other names), `not_finite` hold NaN, infinities or leftovers,
    `diverged` do so after training, `wrong_buffers` differ from what the
    module computes when it is built. `lost_ties` are pairs, `unpacked` layers that should be quantized, `stateless`
    packed weights without state. `bare_meta` are plain attributes on meta, `frozen_out` trainable tensors that got
    no gradient because they are offloaded. `unserved` are here, and a hook will look for them in a store without them.
    """

    class_name: str = ""
    is_adapter: bool = False
    has_map: bool = False
    stripped: tuple[str, ...] = ()
    hooked: tuple[str, ...] = ()
    newcomers: tuple[str, ...] = ()
    wrong_values: tuple[str, ...] = ()
    never_loaded: tuple[str, ...] = ()
    lost_rows: tuple[str, ...] = ()
    not_stored: tuple[str, ...] = ()
    renamed: bool = False
    not_finite: tuple[str, ...] = ()
    diverged: tuple[str, ...] = ()
    wrong_buffers: tuple[str, ...] = ()
    lost_ties: tuple[tuple[str, str], ...] = ()
    unpacked: tuple[str, ...] = ()
    stateless: tuple[str, ...] = ()
    dead_adapter: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    frozen_out: tuple[str, ...] = ()
    bare_meta: tuple[str, ...] = ()
    off_meta_state: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    unserved: tuple[str, ...] = ()
    first_device: str = ""
    examined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """Where a live exception happened: module path, the tensor the failing line read, operands on meta, by name.

    `inputs` are (name, device) of what the model was called with; `inputs_on_meta` are activations or inputs on meta
    that belong to no module. `placeholders` are entries on meta of a state dict that was being read,
    `fed_meta` says that the module which failed was given something on meta that is no weight. `component` is the
    prefix of a pipeline's part, which all names begin with.
    """

    module: str = ""
    module_class: str = ""
    tensors: tuple[str, ...] = ()
    own_forward: bool = True
    inputs_on_meta: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    fed_meta: bool = False
    component: str = ""
    inputs: tuple[tuple[str, str], ...] = ()
    root_class: str = ""


@dataclass(frozen=True)
class Evidence:
    """What is known. `facts` is None without a model; `report` is None without an error or text.

    `live` says that the error is an exception of this process, `distributed` that several processes may be at work.
    """

    rows: tuple[Row, ...] = ()
    facts: ModelFacts | None = None
    report: Report | None = None
    trace: Trace | None = None
    spec: LoadSpec | None = None
    inputs_on_meta: tuple[str, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    holders: tuple[str, ...] = ()
    live: bool = False
    distributed: bool = True
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def has_state(self) -> bool:
        return bool(self.rows)

    @property
    def orphans(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.is_orphan)

    @property
    def offloaded(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.backing == "offloaded")


def rows_of(table: Any, reasons: dict[str, Any] | None = None) -> tuple[Row, ...]:
    """The rows of a placement table; `reasons` are the verdicts of `tensors.backing_of` where a model is at hand."""
    reasons = reasons or {}
    rows = []
    for values in table.to_dict("records"):
        verdict = reasons.get(values["name"])
        fields: dict[str, Any] = {name: _text(values.get(name)) for name in _TEXT_COLUMNS}
        fields |= {name: int(values.get(name, -1) or 0) for name in ("tied_group", "numel", "nbytes")}
        reason, undecided = getattr(verdict, "reason", "") or "", bool(getattr(verdict, "undecided", False))
        rows.append(Row(**fields, reason=reason, undecided=undecided))
    return tuple(rows)


_TEXT_COLUMNS = ("name", "kind", "module", "module_class", "dtype", "device", "mapped_device", "execution_device",
                 "backing", "quantization")  # fmt: skip


def _text(value: Any) -> str:
    """Missing values of a table (NA, NaN, None) are the empty text."""
    return value if isinstance(value, str) else ""


def names_of(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(row.name for row in rows)
