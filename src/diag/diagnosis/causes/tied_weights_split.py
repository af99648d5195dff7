"""tied-weights-split: tied weights were separated."""

from diag.diagnosis.cause import SILENT, VALUE, Cause, Fixes, Found, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, Lack, Trace, names_of
from diag.diagnosis.situation import Situation, in_place
from diag.values.finding import Finding

CAUSE = Cause(
    id="tied-weights-split",
    rank=180,
    looks_at=("lost", "unserved", "broken_ties"),
    title="Tied weights were separated",
    explanation="In many models the output head is the embedding: one tensor under two names. A map that sends the two "
    "names to different places, or code that replaces one of them, breaks the tie. Then the head is missing, random, "
    "or out of step with the embedding.",
    proves=(
        (
            "The config ties embedding and head, and the two are different tensors on different devices or with "
            "different values."
        ),
    ),
    rules_out=("Both names are the same tensor, or both are offloaded to stores that hold the same values.",),
    check="Does config.tie_word_embeddings say true, and does the map give embedding and head different devices?",
    fix="Give both names the same device in the map, or call model.tie_weights() before dispatching.",
    avoid=("untying by cloning the head: it takes twice the memory, and training changes the two copies differently.",),
    seen_as=(VALUE, "Some weights of … were not initialized from the model checkpoint…"),
    shows_as=(SILENT,),
    texts=texts_of(r"""
        accelerate warns that tied parameters are on different devices
            10: tied parameters are on different devices
        accelerate warns that weights were not tied before the map was made
            8: model weights are not tied\. please use the `?tie_weights
        tensors that share memory were met
            7: shared tensors? .*mismatch
        only the tied output head is reported as newly initialized
            8: (?:not|newly) initialized[^.]{0,40}\['?lm_head\.weight'?\]
    """),
    cases=cases_of("""
        T58 tied embedding and head in two places: huggingface/accelerate#1197 huggingface/accelerate#1204
            huggingface/accelerate#4083
        T60 tied head reported as newly initialized: huggingface/accelerate#1772 huggingface/accelerate#3049
            huggingface/transformers#42837
    """),
    needs="orphans",
    enough=6,
    is_ambiguous=True,
)


def from_state(e: Evidence) -> Found:
    if lost := e.lost.get(Lack.TIE_SPLIT):
        yield CAUSE.lacking(lost, "Their tied partner has data.")
    if unserved := e.unserved.get(Lack.TIE_SPLIT):
        yield CAUSE.lacking(unserved, "It is tied to a tensor that the map left in place.")
    if e.broken_ties:
        names = tuple(dict.fromkeys(name for pair in e.broken_ties for name in pair))
        pairs = "; ".join(f"{a} and {b}" for a, b in e.broken_ties)
        because = f"The model declares them tied, and their values differ: {pairs}."
        yield CAUSE.finding("shown", names, silent=True, because=(because,))


def from_error(e: Evidence) -> Found:
    if e.meeting and e.meeting.split_ties:
        where = " and ".join(sorted({row.device for row in e.meeting.split_ties}))
        because = f"They are declared tied, and are on {where}."
        yield CAUSE.finding("shown", names_of(e.meeting.split_ties), silent=False, because=(because,))


def from_text(trace: Trace) -> Points:
    if trace.needed_value:
        tied = trace.says("tie_word_embeddings", "tie_weights", "tied", "lm_head")
        yield Point(7 if tied else 3, trace.no_value_for)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    reload = situation.reload_with_map("auto", "a map that the loader computes keeps tied tensors together")
    apart = len(finding.tensors) > 1 and not situation.are_one_tensor(finding.tensors)
    if not (situation.has_model and apart):
        return reload
    return (in_place("restore-tie", "ties the names to one tensor again.", "model.tie_weights()"), *reload)
