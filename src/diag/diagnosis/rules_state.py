"""Rules on state: pure functions from Evidence to findings. What the state shows is `shown`, whatever a text says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from diag.diagnosis.evidence.record import Evidence, ModelFacts, Row, names_of
from diag.diagnosis.making import counted, make
from diag.models import hooks
from diag.models.adapters import LAYER_PARTS
from diag.values.finding import Finding


def state_findings(e: Evidence) -> list[Finding]:
    """Everything the state shows, in no particular order."""
    if not e.has_state:
        return []
    found = list(orphans(e))
    for rule in _RULES:
        found += rule(e)
    return found


# --- meta tensors that nobody holds ---------------------------------------------------------------------------


def orphans(e: Evidence) -> Iterator[Finding]:
    """One finding per cause of meta tensors without data, with every culprit named."""
    groups: dict[str, list[Row]] = {}
    for row in e.orphans:
        groups.setdefault(_cause_of_orphan(row, e), []).append(row)
    for cause, rows in groups.items():
        certainty = "shown" if e.facts is not None or cause in ("never-materialised", "hooks-removed") else "likely"
        yield make(
            cause,
            certainty,
            names_of(rows),
            because=_why_orphaned(cause, rows, e),
            silent=e.report is None and _raises_nothing(rows),
        )


def _cause_of_orphan(row: Row, e: Evidence) -> str:
    facts = e.facts or ModelFacts()
    if row.kind == "quant_state":
        return "quantization-state-lost"
    if row.reason == hooks.FORWARD_BYPASSED:
        return "forward-bypasses-hook"
    if row.reason in (hooks.NOT_IN_STORE, hooks.FILE_MISSING):
        return "submodule-replaced" if _is_new(row, facts) else "missing-weight-data"
    if row.reason == hooks.STORE_IS_META:
        nearly_all = 2 * sum(r.reason == hooks.STORE_IS_META for r in e.orphans) > sum(
            r.kind == "parameter" for r in e.rows
        )
        return "never-materialised" if nearly_all else "missing-weight-data"
    if facts.is_adapter and row.mapped_device in ("cpu", "disk"):
        return "adapter-on-offloaded-base"
    if any(part in row.name for part in LAYER_PARTS):
        return "never-materialised"
    if row.module in facts.stripped:
        return "hooks-removed"
    if _is_new(row, facts) or row.module in facts.strays:
        return "submodule-replaced"
    if row.reason == hooks.NOT_BROUGHT_BACK:
        return "never-materialised"
    return _without_hook(row, e)


def _without_hook(row: Row, e: Evidence) -> str:
    """No store serves it: was there ever one? The map says whether it was meant to be offloaded."""
    meant_to_be = row.mapped_device in ("cpu", "disk")
    if row.execution_device and not row.reason:
        return "forward-bypasses-hook" if meant_to_be else "missing-weight-data"  # a table alone can't tell
    if row.execution_device or meant_to_be:
        return "hooks-removed"
    tied = [other for other in e.rows if other.tied_group == row.tied_group and not other.is_orphan]
    return "tied-weights-split" if tied else "never-materialised"


def _is_new(row: Row, facts: ModelFacts) -> bool:
    return any(row.module == path or row.module.startswith(f"{path}.") for path in facts.newcomers)


def unserved(e: Evidence) -> Iterator[Finding]:
    """Tensors that are here while their hook fetches them from a store that has no such key: KeyError in forward."""
    facts = e.facts or ModelFacts()
    groups: dict[str, list[Row]] = {}
    for row in (row for row in e.rows if row.name in facts.unserved):
        groups.setdefault(_cause_of_unserved(row, e, facts), []).append(row)
    for cause, rows in groups.items():
        because = ["Its hook fetches it before each forward from a store that has no such key."]
        because += ["It is tied to a tensor that the map left in place."] if cause == "tied-weights-split" else []
        yield make(cause, "shown", names_of(rows), because=tuple(because))


def _cause_of_unserved(row: Row, e: Evidence, facts: ModelFacts) -> str:
    if any(other.tied_group == row.tied_group and other.name != row.name for other in e.rows):
        return "tied-weights-split"
    if facts.is_adapter and any(part in row.name for part in LAYER_PARTS):
        return "adapter-on-offloaded-base"
    return "submodule-replaced" if _is_new(row, facts) else "missing-weight-data"


def bare_meta(e: Evidence) -> Iterator[Finding]:
    if e.facts and e.facts.bare_meta and not any(row.is_orphan for row in e.rows):
        yield make("never-materialised", "shown", e.facts.bare_meta,
                   because=("Plain attributes that were built on meta: no load fills them.",))  # fmt: skip


def _raises_nothing(rows: Sequence[Row]) -> bool:
    """A Linear or convolution without bias computes with random memory and raises nothing."""
    return all("Norm" not in row.module_class and row.local_name == "weight" for row in rows)


def _why_orphaned(cause: str, rows: Sequence[Row], e: Evidence) -> tuple[str, ...]:
    parameters = [row for row in e.rows if row.kind == "parameter"]
    of_all = f"{len(rows)} of {len(e.rows)} tensors"
    count = f"{of_all} {'is' if len(rows) == 1 else 'are'} on meta, and nobody has the data."
    said = {
        "adapter-on-offloaded-base": "PEFT's layers are in the model, and the map offloads these blocks of the base.",
        "hooks-removed": "Their hooks were taken off or exchanged, and the weights stayed behind on meta.",
        "forward-bypasses-hook": "A hook holds them, and the module's forward no longer reaches it.",
        "missing-weight-data": f"A hook serves them, and {rows[0].reason or 'its store has no data for them'}.",
        "submodule-replaced": "Their modules were not there when the model was loaded.",
        "tied-weights-split": "Their tied partner has data.",
        "quantization-state-lost": "The scales of packed weights are on meta.",
    }
    if cause in said:
        return (count, said[cause])
    whole = (
        f"{sum(r.is_orphan for r in parameters)} of {len(parameters)} parameters have no data, and no hook serves them."
    )
    return (count, whole)


# --- values ---------------------------------------------------------------------------------------------------


def replaced_modules(e: Evidence) -> Iterator[Finding]:
    facts = e.facts
    if facts is None:
        return
    tied = {name for pair in _lost_ties(facts) for name in pair}  # the lost tie says more than the exchange
    new = [row for row in e.rows if row.kind == "parameter" and not row.is_orphan and row.name not in tied
           and (_is_new(row, facts) or row.module in facts.strays)]  # fmt: skip
    wrong = [row.name for row in new if row.name in facts.wrong_values]
    unhooked = [r.name for r in new if r.module in facts.strays and _is_new(r, facts) and r.mapped_device]
    culprits = tuple(dict.fromkeys([*wrong, *unhooked]))
    if culprits:
        because = ["These modules were not there when the model was loaded."]
        because += ["Their values have nothing to do with the checkpoint's."] if wrong else []
        because += ["Their neighbours have hooks, and they have none."] if unhooked else []
        yield make("submodule-replaced", "shown" if wrong else "likely", culprits, because=tuple(because))


def uninitialised(e: Evidence) -> Iterator[Finding]:
    """One finding for all values that were never loaded, with every kind of evidence for it."""
    facts = e.facts
    if facts is None:
        return
    skip = {row.name for row in e.rows if _is_new(row, facts)} | {n for pair in _lost_ties(facts) for n in pair}
    groups = (
        (facts.wrong_buffers, "are not saved, and differ from what the model computes when it is built"),
        (facts.not_finite, "hold values that no training gives: NaN, infinities or leftovers"),
        ([n for n in facts.wrong_values if n not in skip], "have nothing to do with the checkpoint's files"),
    )
    shown = [(names, f"{counted(len(names), why)}.") for names, why in groups if names]
    added = tuple(name for name in facts.not_stored if name not in skip)
    if added and facts.renamed:
        shown.append((added, "The checkpoint holds such tensors only under other names, so that "
                             f"{len(added)} were newly initialised at random."))  # fmt: skip
    if shown:
        names = tuple(dict.fromkeys(name for group, _ in shown for name in group))
        yield make("uninitialised-values", "shown", names, because=tuple(why for _, why in shown))
    else:
        yield from _not_proved(facts, added, skip)


def _not_proved(facts: ModelFacts, added: tuple[str, ...], skip: set[str]) -> Iterator[Finding]:
    """What may be meant: the user knows whether a head is new on purpose, or a model was built from its config."""
    groups = (
        ("likely", added, "The checkpoint has no such tensors: they were newly initialised at random."),
        ("likely", facts.dead_adapter, "Its outer matrices are all zero: the adapter changes nothing."),
        ("likely", tuple(n for n in facts.lost_rows if n not in skip),
         "Whole experts or blocks of rows are zero where the file has numbers: lost, unless they were pruned."),
        ("likely", facts.diverged, "NaN, infinities or huge numbers in trained tensors: the training has diverged."),
        ("possible", facts.never_loaded, "Nothing of the checkpoint that its config names was loaded into this model: "
         "it was built from the config alone, or got other weights. To train it from scratch that is right."),
    )  # fmt: skip
    for certainty, names, why in groups:
        if names:
            yield make("uninitialised-values", certainty, names, because=(why,))


def rewritten_files(e: Evidence) -> Iterator[Finding]:
    names = e.facts.rewritten if e.facts else ()
    if names:
        yield make("adapter-on-offloaded-base", "shown", names, silent=True,
                   because=(f"The base's files hold {len(names)} tensors only under PEFT's names: they were "
                            "written over, and a load of these files fills those weights at random.",))  # fmt: skip


def lost_ties(e: Evidence) -> Iterator[Finding]:
    pairs = _lost_ties(e.facts) if e.facts else ()
    if pairs:
        names = tuple(dict.fromkeys(name for pair in pairs for name in pair))
        said = "; ".join(f"{a} and {b}" for a, b in pairs)
        yield make("tied-weights-split", "shown", names, silent=True,
                   because=(f"The model declares them tied, and their values differ: {said}.",))  # fmt: skip


def _lost_ties(facts: ModelFacts) -> tuple[tuple[str, str], ...]:
    """Lost ties of a source that is right itself; where the source is garbage, the tie is not what went wrong."""
    garbage = {*facts.wrong_values, *facts.not_finite, *facts.never_loaded}
    unfilled = len(facts.not_finite) > 1 and any(follower in garbage for follower, _ in facts.lost_ties)
    return () if unfilled else tuple((a, b) for a, b in facts.lost_ties if b not in garbage)


# --- quantization, gradients ----------------------------------------------------------------------------------


def quantization(e: Evidence) -> Iterator[Finding]:
    facts = e.facts
    if facts is not None and facts.unpacked:
        yield make("quantization-skipped", "shown", facts.unpacked,
                   because=("The config asks for quantization, and these layers hold full-size weights.",))  # fmt: skip
    if facts is not None and facts.stateless:
        yield make("quantization-state-lost", "shown", facts.stateless,
                   because=("The weights are packed bytes, and nothing says what the bytes mean.",))  # fmt: skip
    if facts is not None and facts.off_meta_state:
        yield make("quantization-state-lost", "shown", facts.off_meta_state,
                   because=("The weights are here, and their quantization state is on meta.",))  # fmt: skip
    asked = e.spec.quantization if e.spec else "none"
    packed = any(row.quantization not in ("", "none") for row in e.rows)
    linears = [r.name for r in e.rows if r.module_class == "Linear" and r.name.endswith(".weight")]
    if asked not in ("none", "as-stored") and not packed and linears and not (facts and facts.unpacked):
        yield make("quantization-skipped", "shown", tuple(linears),
                   because=(f"{asked.partition(' ')[0]} was asked for, and no layer is quantized.",))  # fmt: skip


def training(e: Evidence) -> Iterator[Finding]:
    if e.facts and e.facts.frozen_out:
        yield make("training-offloaded-layers", "shown", e.facts.frozen_out, silent=True,
                   because=("Other parameters have received gradients; these are on meta and have none.",))  # fmt: skip


def moved(e: Evidence) -> Iterator[Finding]:
    """Tensors that are not where map and hook run them, and that no hook will fetch: the dispatched model was moved.

    Tied tensors are left out: a tie over two devices puts one name elsewhere by itself. So are modules that are new.
    """
    facts = e.facts or ModelFacts()
    groups = [row.tied_group for row in e.rows]
    away = [row for row in e.rows if row.backing == "resident" and row.kind != "quant_state" and row.execution_device
            and row.device != row.execution_device == row.mapped_device and groups.count(row.tied_group) == 1
            and not _is_new(row, facts) and row.module not in facts.strays]  # fmt: skip
    if any(row.kind == "parameter" for row in away):
        here, there = (" and ".join(sorted({getattr(row, k) for row in away})) for k in ("device", "execution_device"))
        yield make("moved-after-dispatch", "shown", names_of(away), because=(
            f"{len(away)} tensors are on {here}. Map and hooks run them on {there}, and only move their inputs there.",
        ))  # fmt: skip


def inputs(e: Evidence) -> Iterator[Finding]:
    if e.inputs_on_meta:
        yield make(
            "input-on-meta", "shown", e.inputs_on_meta, because=("The inputs are on meta: their numbers are gone.",)
        )


_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    unserved, bare_meta, replaced_modules, uninitialised, rewritten_files, lost_ties, quantization, training, moved,
    inputs,
)  # fmt: skip
