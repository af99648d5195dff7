"""hooks-removed: offloaded weights were stranded when their hooks were taken off."""

from diag.diagnosis.cause import (
    COPY,
    HEADLINE,
    LATER_META,
    NO_TO_EMPTY,
    SILENT,
    Cause,
    Fixes,
    Found,
    Point,
    Points,
    cases_of,
    texts_of,
)
from diag.diagnosis.evidence import Evidence, Lack, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="hooks-removed",
    rank=100,
    looks_at=("lost",),
    title="Offloaded weights were stranded when their hooks were taken off",
    explanation="accelerate keeps offloaded weights outside the module, on the CPU or on disk, and leaves placeholders "
    "on meta. A hook on each module brings the numbers in just before its forward and takes them out after it. "
    "remove_hook_from_module() or remove_hook_from_submodules() takes the hooks off and, with them, the only way to "
    "the numbers: weights that were never real in this process stay on meta for good.",
    proves=(
        "hf_device_map sends modules to cpu or disk, their tensors are on meta, and no hook serves them.",
        "The root's .to() is no longer accelerate's guard although the map is set.",
    ),
    rules_out=("Hooks with offload=True are still on the modules, or no map ever asked for offload.",),
    check="Does the code call remove_hook_from_module(), remove_hook_from_submodules() or remove_all_hooks()?",
    fix="Load the model again. Where the hooks are still there, diag.materialise(model) copies the numbers in first "
    "and takes the hooks off afterwards.",
    avoid=(
        NO_TO_EMPTY,
        "dispatching the same model again: the numbers are gone, so accelerate has nothing to bring in.",
    ),
    seen_as=(HEADLINE, LATER_META, COPY),
    shows_as=(SILENT,),
    texts=texts_of(r"""
        the offload hooks were taken off
            8: remove_hook_from_(?:module|submodules)\(|remove_all_hooks\(\)
        near meta: offload hooks were taken off
            4: remove_hook|remove_all_hooks|afterremovinghooks
    """),
    cases=cases_of("""
        T77 remove_hook_from_module strands weights: huggingface/accelerate#3866 huggingface/accelerate#4078
            huggingface/accelerate#4261
    """),
    needs="orphans",
    loses_data=True,
    is_ambiguous=True,
)


def from_state(e: Evidence) -> Found:
    if lost := e.lost.get(Lack.HOOK_LOST):
        yield CAUSE.lacking(lost, "Their hooks were taken off or exchanged, and the weights stayed behind on meta.")


def from_text(trace: Trace) -> Points:
    if trace.meets_meta and trace.mixed:
        if trace.forward_without_hook:
            yield Point(6 if trace.dispatched else 3, f"{trace.order}, and no offload hook is in the trace")
        # A norm's `self.weight * x` is the usual first failure of stranded weights.
        usual = trace.mixed.ordered and trace.mixed.expected == "meta"
        yield Point(3 + usual + trace.dispatched, trace.order)
    if trace.copies_meta and not trace.says("to_empty()insteadof") and not trace.moves_something:
        yield Point(1, "a meta tensor was to be copied to a real device")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return (*situation.refill(finding), *situation.reload_alike())
