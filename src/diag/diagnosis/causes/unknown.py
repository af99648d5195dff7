"""unknown: none of the known causes explains this."""

from diag.diagnosis.cause import Cause, Point, Points, cases_of
from diag.diagnosis.evidence import Trace

CAUSE = Cause(
    id="unknown",
    rank=310,
    title="None of the known causes explains this",
    shown_on="a scenario for an unknown cause would have to be known",
    explanation="The text or the state was read and fits no known cause, so diag does not guess. The finding lists "
    "what was looked at and ruled out, so that you can send it on.",
    proves=("No rule gave evidence for any cause.",),
    rules_out=("Any other entry is supported.",),
    check="Give more: the whole traceback, the lines printed while loading, or the model itself.",
    fix="Run diag.diagnose(model, error=exc) where it fails; send the findings and the versions with a report.",
    avoid=("trying fixes for other causes one after the other.",),
    cases=cases_of("""
        T19 copy out of meta, reported without a cause: hiyouga/LlamaFactory#3062 codefuse-ai/MFTCoder#24
            wp931120/baichuan_sft_lora#2
        T70 headline text in a backward pass with opacus: meta-pytorch/opacus#737
    """),
)


def from_text(trace: Trace) -> Points:
    if not trace.meets_meta:
        return
    backward = trace.calls("backward") and not trace.dispatched
    if backward or trace.passes("opacus", "functorch"):
        yield Point(7, "it was raised in a backward pass or by a per-sample-gradient library, not in a forward")
