"""forward-bypasses-hook: the hook is there, but the module's forward no longer goes through it."""

from diag.diagnosis.cause import HEADLINE, LATER_META, NO_TO_EMPTY, SILENT, Cause, Fixes, Found, Point, Points, cases_of
from diag.diagnosis.evidence import Evidence, Handling, Lack, Trace, WeightUse
from diag.diagnosis.situation import TO_EMPTY, Situation, in_place
from diag.values.finding import Finding

CAUSE = Cause(
    id="forward-bypasses-hook",
    rank=120,
    looks_at=("lost",),
    title="The hook is there, but the module's forward no longer goes through it",
    explanation="accelerate puts its hook in place of module.forward. Fused kernels, patches and some acceleration "
    "libraries assign another forward afterwards, or call the class's forward directly. The hook object is still on "
    "the module, so everything looks right, but nobody brings the weights in. A norm or a biased Linear raises; a "
    "Linear without bias computes with random memory and raises nothing.",
    proves=("A hook whose store holds the weight is on the module, and module.forward never reaches it.",),
    rules_out=("The forward is a wrapper (logging, timing) that still calls accelerate's.",),
    check="Does the code or a library assign module.forward, or call type(module).forward(...), after loading?",
    fix="Take the other forward off, or patch before loading; to keep the patch, set it as module._old_forward, which "
    "accelerate's wrapper calls.",
    avoid=("moving the input: the weight is missing, not the input.", NO_TO_EMPTY),
    seen_as=(HEADLINE, LATER_META),
    shows_as=(SILENT,),
    cases=cases_of("""
        T18 a later operand on meta in a biased Linear: zai-org/ChatGLM2-6B#204 zai-org/ChatGLM2-6B#254
            lyhue1991/torchkeras#26 lyhue1991/torchkeras#59
        T79 forward patched after dispatch: huggingface/accelerate#1835 huggingface/accelerate#1971
    """),
    needs="offloaded",
    enough=10,
    is_ambiguous=True,
)


def from_state(e: Evidence) -> Found:
    if lost := e.lost.get(Lack.FORWARD_BYPASSED):
        yield CAUSE.lacking(lost, "A hook holds them, and the module's forward no longer reaches it.")


def from_error(e: Evidence) -> Found:
    if e.site and e.handling is Handling.CALLED_PAST_HOOK:
        because = "The hook is in place, and this forward was called past it."
        yield CAUSE.finding("shown", e.site.tensors, module=e.site.where, because=(because,))


def from_text(trace: Trace) -> Points:
    if not trace.meets_meta:
        return
    if trace.site and trace.forward_called_directly:
        how = "the forward was called directly, and a hook only runs when the module is called"
        yield Point(7, f"{trace.order}; {how}")
    if trace.weight_use is WeightUse.AFTER_HOOK:
        yield Point(2, f"{trace.order}; a hook ran right before, and still the weight was meta")
    elif trace.weight_use is WeightUse.OWN_WITHOUT_HOOK:
        how = "other hooks are in the trace, but none above this forward"
        yield Point(6, f"{trace.order}; {how}: {trace.code}")
    yield Point(3 + trace.dispatched, trace.order)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    if not (situation.has_model and finding.tensors):
        return ()
    because = "takes the other forward off and puts accelerate's hook back in front."
    return (in_place("restore-forward", because, avoid=TO_EMPTY),)
