"""Everything a diagnosis may use, as one frozen value: `Evidence` is what a rule of `causes/` reads. Standard library.

Read for it: a model by `facts.py`, a live exception by `frames.py`, a text by `report.py` and `trace.py`. What several
causes need is worked out once: `lacking.py` sorts the tensors without data,
`handling.py` says what a failing call did with healthy weights, and which devices met.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from diag.diagnosis.evidence.trace import Trace as Trace
from diag.diagnosis.evidence.trace import WeightUse as WeightUse
from diag.values.finding import Certainty, Finding
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

    `stripped` are modules whose accelerate hook was taken off (it leaves a trace), `newcomers` those that were not
    there when the model was loaded, `strays` those without a hook among neighbours that have one. `wrong_values` differ
    from the checkpoint beyond training, `never_loaded` are those of a model that no file was ever read into,
    `lost_rows` are zero in part. `not_stored` are in no file (`renamed`: but under other names), `not_finite` hold NaN,
    infinities or leftovers, `diverged` do so after training, `wrong_buffers` differ from what the module computes when
    it is built. `lost_ties` are pairs, `unpacked` layers that should be quantized, `stateless` packed weights without
    state. `bare_meta` are plain attributes on meta, `frozen_out` trainable tensors that got no gradient because they
    are offloaded. `unserved` are here, and a hook will look for them in a store without them.
    """

    is_adapter: bool = False
    stripped: tuple[str, ...] = ()
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


class Lack(Enum):
    """Why nobody has the data of a tensor, or why a hook will look for it in vain."""

    STATE_ON_META = auto()  # the scales of packed weights
    FORWARD_BYPASSED = auto()  # a hook holds it, and the forward no longer reaches the hook
    NOT_IN_STORE = auto()  # a hook serves it, and its store or file has nothing
    NEWCOMER = auto()  # its module was not there when the model was loaded
    NEVER_FILLED = auto()  # it was built without data
    ADAPTER_ON_OFFLOADED = auto()  # PEFT's layers on blocks that the map offloads
    HOOK_LOST = auto()  # the map offloads it, and no hook is there to bring it back
    TIE_SPLIT = auto()  # its tied partner has data, or was left in place


@dataclass(frozen=True)
class Lost:
    """Tensors that lack their data for one reason. `said` says so, `reason` is the hook's own reason, or empty.

    `silent`: the forward computes with random memory and raises nothing; None where that is not known.
    """

    names: tuple[str, ...]
    said: str
    certainty: Certainty
    reason: str = ""
    silent: bool | None = None


class Handling(Enum):
    """What a failing call did with a model whose weights all have their data: told by its live frames."""

    SAVED_SHARED = auto()  # a save stopped at tied names; the state dict holds placeholders too
    GIVEN_TO_ANOTHER = auto()  # load_state_dict was given placeholders
    INPUT_ON_META = auto()
    INPUT_MADE_ON_META = auto()  # generate() made ids on model.device
    SAVED = auto()
    STATE_DICT_READ = auto()
    MOVED = auto()
    READ_OUTSIDE = auto()
    META_AFTER_HOOK = auto()
    CALLED_PAST_HOOK = auto()


@dataclass(frozen=True)
class Meeting:
    """Two real devices that met: what is on another device than the rest of the model, and no hook carries it over."""

    home: str
    total: int
    split_ties: tuple[Row, ...] = ()
    away: tuple[Row, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()  # (name, device)


@dataclass(frozen=True)
class CallSite:
    """Where a live exception happened: module path, the tensor the failing line read, operands on meta, by name.

    `inputs` are (name, device) of what the model was called with; `inputs_on_meta` are activations or inputs on meta
    that belong to no module. `placeholders` are entries on meta of a state dict that was being read, `fed_meta` says
    that the module which failed was given something on meta that is no weight. `component` is the prefix of a
    pipeline's part, which all names begin with.
    """

    module: str = ""
    tensors: tuple[str, ...] = ()
    own_forward: bool = True
    inputs_on_meta: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    fed_meta: bool = False
    component: str = ""
    inputs: tuple[tuple[str, str], ...] = ()
    root_class: str = ""

    @property
    def where(self) -> str:
        return self.module or self.root_class


@dataclass(frozen=True)
class Evidence:
    """What is known. `facts` is None without a model, `trace` (the error's text and frames) without an error or text.

    `orphans` are the rows without data, `lost` sorts them by reason; `unserved` are those a hook looks for in vain.
    `broken_ties` are pairs whose source is right itself, `new_names` the tensors of modules that were put in later.
    `state` is what the model shows at rest, for rules on its error, and `memory_ran_short` what was found first.
    `live` says that the error is an exception of this process, `distributed` that several processes may be at work.
    """

    rows: tuple[Row, ...] = ()
    facts: ModelFacts | None = None
    orphans: tuple[Row, ...] = ()
    offloaded: tuple[Row, ...] = ()
    lost: Mapping[Lack, Lost] = field(default_factory=dict)
    unserved: Mapping[Lack, Lost] = field(default_factory=dict)
    broken_ties: tuple[tuple[str, str], ...] = ()
    new_names: frozenset[str] = frozenset()
    trace: Trace | None = None
    site: CallSite | None = None
    handling: Handling | None = None
    meeting: Meeting | None = None
    spec: LoadSpec | None = None
    inputs_on_meta: tuple[str, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    state: tuple[Finding, ...] = ()
    memory_ran_short: bool = False
    live: bool = False
    distributed: bool = True

    def found(self, *, cause: str) -> Finding | None:
        """The first finding of the state with this cause."""
        return next((one for one in self.state if one.cause == cause), None)


def names_of(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(row.name for row in rows)
