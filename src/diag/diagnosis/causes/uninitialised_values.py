"""uninitialised-values: nothing is on meta, but some values were never loaded."""

import re

from diag.diagnosis.cause import NO_TO_EMPTY, SILENT, Cause, Fixes, Found, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, ModelFacts
from diag.diagnosis.situation import Situation, in_place
from diag.models.adapters import is_adapter_part
from diag.values.finding import Finding, Fix, Requirement

CAUSE = Cause(
    id="uninitialised-values",
    rank=220,
    looks_at=(
        "wrong_buffers",
        "not_finite",
        "wrong_values",
        "not_stored",
        "lost_rows",
        "dead_adapter",
        "diverged",
        "never_loaded",
    ),
    title="Nothing is on meta, but some values were never loaded",
    severity="silent",
    explanation="The model looks complete and every device is real, yet some numbers are whatever was in memory. That "
    "is what to_empty() leaves, and what transformers 5 leaves in buffers that are not saved (persistent=False) when "
    "the model's own code does not compute them again; the inverse frequencies of rotary embeddings are the usual "
    "victim. Tensors that the checkpoint lacks are newly initialised at random.",
    proves=(
        "A buffer that is not saved differs from the one that the module computes when it is built.",
        "Values differ from the checkpoint's files (diag.verify_weights), or are not finite.",
    ),
    rules_out=("The model equals its twin on the same inputs.",),
    check="Was to_empty() called, did loading report newly initialised tensors, or does the model have buffers that "
    "are not saved?",
    fix="Load again without to_empty(); buffers that are not saved are computed anew by diag.fix where the module's "
    "constructor can do it.",
    avoid=(NO_TO_EMPTY, "judging by 'no exception': a model with one random layer still answers fluently."),
    shows_as=(SILENT, "no error, and NaN"),
    texts=texts_of(r"""
        to_empty() leaves uninitialised values
            5: (?<!nn\.module)\.to_empty\(
        the loader reports tensors that the checkpoint did not have
            5: newly initialized|\|\s*missing\s*\|
        values are not numbers
            4: probability tensor contains either|loss(?:'?:|=) ?nan|all logits? .*nan
    """),
    cases=cases_of("""
        T65 non-persistent buffers filled with garbage: huggingface/transformers#48892 huggingface/transformers#48932
            macwiatrak/Bacformer#33
        T66 inv_freq left uninitialised by to_empty(): huggingface/transformers#45902 pytorch/torchtitan#4783
            NovaSky-AI/SkyRL#1725
    """),
    needs="broken",
    explains_errors=False,
)


def from_state(e: Evidence) -> Found:
    """One finding for all values that were never loaded, with every kind of evidence for it."""
    facts = e.facts
    if facts is None:
        return
    skip = {*e.new_names, *(name for pair in e.broken_ties for name in pair)}
    added, wrong, lost = (
        tuple(name for name in names if name not in skip)
        for names in (facts.not_stored, facts.wrong_values, facts.lost_rows)
    )
    groups = (
        (facts.wrong_buffers, "are not saved, and differ from what the model computes when it is built"),
        (facts.not_finite, "hold values that no training gives: NaN, infinities or leftovers"),
        (wrong, "have nothing to do with the checkpoint's files"),
    )
    shown = [(names, f"{_counted(len(names), why)}.") for names, why in groups if names]
    if added and facts.renamed:
        said = "The checkpoint holds such tensors only under other names, so that"
        shown.append((added, f"{said} {len(added)} were newly initialised at random."))
    if shown:
        names = tuple(dict.fromkeys(name for group, _ in shown for name in group))
        yield CAUSE.finding("shown", names, because=tuple(why for _, why in shown))
    else:
        yield from _not_proved(facts, added, lost)


def _not_proved(facts: ModelFacts, added: tuple[str, ...], lost: tuple[str, ...]) -> Found:
    """What may be meant: the person knows whether a head is new on purpose, or a model was built from its config."""
    likely = (
        (added, "The checkpoint has no such tensors: they were newly initialised at random."),
        (facts.dead_adapter, "Its outer matrices are all zero: the adapter changes nothing."),
        (lost, "Whole experts or blocks of rows are zero where the file has numbers: lost, unless they were pruned."),
        (facts.diverged, "NaN, infinities or huge numbers in trained tensors: the training has diverged."),
    )
    for names, why in likely:
        if names:
            yield CAUSE.finding("likely", names, because=(why,))
    if facts.never_loaded:
        why = (
            "Nothing of the checkpoint that its config names was loaded into this model: it was built from the config "
            "alone, or got other weights. To train it from scratch that is right."
        )
        yield CAUSE.finding("possible", facts.never_loaded, because=(why,))


def fixes(finding: Finding, situation: Situation) -> Fixes:
    names = finding.tensors
    if names and all(map(is_adapter_part, names)):
        return (Fix("edit", requires=(Requirement("trained-adapter"),), because=_DEAD_ADAPTER),)
    reload = situation.reload_alike()
    if situation.has_model and names and situation.are_unsaved_buffers(names):
        because = "computes the buffers anew, as the model's constructor does."
        return (in_place("restore-buffers", because), *reload)
    if complete := situation.complete_the_files(finding):
        return (*reload, *complete)
    return (*situation.refill(finding), *reload)


_DEAD_ADAPTER = (
    "The adapter's outer matrices are zero, as they are when an adapter is made: it was saved before it was trained, "
    "or none of its file's names fitted when it was loaded (PEFT then warns of missing adapter keys). Load the adapter "
    "that was trained, or rename the keys of its file; the base needs nothing."
)


_VERBS = {"are": "is", "have": "has", "hold": "holds", "differ": "differs"}


def _counted(count: int, do: str) -> str:
    """`3 tensors have no data` or `1 tensor has no data`."""
    if count != 1:
        return f"{count} tensors {do}"
    return f"1 tensor {re.sub(r'[a-z]+', lambda found: _VERBS.get(found[0], found[0]), do)}"
