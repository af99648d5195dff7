"""weight-used-outside-hook: A healthy offloaded weight was read from outside its module's forward."""

import re

from diag.diagnosis.cause import COPY, HEADLINE, LATER_META, NO_TO_EMPTY, Cause, Fixes, Found, Point, Points, cases_of
from diag.diagnosis.evidence import Evidence, Handling, Trace, WeightUse
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="weight-used-outside-hook",
    rank=240,
    title="A healthy offloaded weight was read from outside its module's forward",
    explanation="While a module rests, its offloaded weight is a placeholder on meta; the numbers are there only "
    "during its own forward. Code that reads module.weight directly meets the placeholder: a parent that indexes an "
    "embedding's weight, a container's own parameter, resizing the embedding, or a library that walks "
    "named_parameters() and looks at values.",
    proves=("The model's placement is healthy, and the failing line is not in the forward of the weight's owner.",),
    rules_out=("A plain model(ids) fails too, inside the owner's forward: then the hook or the data is gone.",),
    check="Does a plain model(**inputs) work, and only the other call fail?",
    fix="Call the module instead of reading its weight, or read inside accelerate.utils.align_module_device(module), "
    "or load so that this module is not offloaded; diag.materialise(model) brings everything in.",
    avoid=(".to(device) on the placeholder: there is nothing to copy.", NO_TO_EMPTY),
    seen_as=(LATER_META, HEADLINE, COPY),
    cases=cases_of("""
        T41 model code reads an offloaded embedding's weight: huggingface/transformers#48409
            huggingface/transformers#31560
        T42 a container's own parameter under sequential offload: huggingface/accelerate#3542
            huggingface/diffusers#10958 huggingface/diffusers#10869
        T44 token embedding resized after offload: huggingface/diffusers#3922
        T45 calibration code walks the parameters: vllm-project/llm-compressor#1432 vllm-project/compressed-tensors#529
    """),
    needs="offloaded",
    enough=10,
    is_ambiguous=True,
)

_WALKERS = ("llmcompressor", "auto_gptq", "gptqmodel", "/awq/", "transformer_lens", "auto_round")
_READS_VALUES = re.compile(r"param(?:eter)?s?\b.*\.(?:to|cpu|float|data|clone)|\.(?:tolist|numpy|norm|abs)\(")


def from_error(e: Evidence) -> Found:
    if e.site and e.handling is Handling.READ_OUTSIDE:
        because = "The weight is offloaded and healthy, and was read outside its forward."
        yield CAUSE.finding("shown", e.site.tensors, module=e.site.where, because=(because,))


def from_text(trace: Trace) -> Points:
    if trace.meets_meta:
        if trace.weight_use is WeightUse.OF_ANOTHER_MODULE:
            yield Point(7, f"{trace.order}; the failing line reads another module's weight: {trace.code}")
        elif trace.weight_use is WeightUse.OUTSIDE_FORWARD and trace.site:
            yield Point(3, f"{trace.order}; the failing line is in {trace.site.function}(), not in a forward")
        elif trace.weight_use is WeightUse.OF_A_CONTAINER:
            yield Point(5, f"{trace.order}; the line reads a parameter of a container: {trace.code}")
        offloads = trace.offload_seen or trace.passes("accelerate/hooks.py")
        if trace.site and trace.passes("/diffusers/") and offloads:
            yield Point(3, "a diffusers model under sequential offload")
        # `x + weight`, `where(mask, weight, x)`: the form that is reported most.
        usual = trace.mixed is not None and trace.mixed.ordered and trace.mixed.expected != "meta"
        yield Point(3 + usual + trace.dispatched, trace.order)
    if trace.copies_meta and (_READS_VALUES.search(trace.code) or trace.passes(*_WALKERS)):
        yield Point(6, "library code walked the parameters and read their values")
    if trace.value_asked:
        if trace.calls("resize_token_embeddings", "_resize_token_embeddings", "load_textual_inversion"):
            yield Point(12, "the embedding was resized while its weight is offloaded")
        yield Point(4 if trace.dispatched else 2, "the value of a meta tensor was asked for")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.bring_in()
