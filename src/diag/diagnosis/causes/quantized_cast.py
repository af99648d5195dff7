"""quantized-cast: A quantized model was cast to another dtype."""

from diag.diagnosis.cause import Cause, Fixes, cases_of, texts_of
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="quantized-cast",
    rank=10,
    title="A quantized model was cast to another dtype",
    versions="bitsandbytes 0.50.2, transformers 5.23.0, accelerate 1.15.0",
    explanation="Packed weights have no dtype to cast: .half(), .float() or .to(dtype) would destroy them, so "
    "transformers refuses. Moving to another device is allowed in recent versions.",
    proves=("The refusal names a cast of a quantized model.",),
    rules_out=("The model is not quantized.",),
    check="Which line calls .half(), .float() or .to() with a dtype?",
    fix="Remove the cast and pass dtype= when loading; it is the dtype that the layers compute in.",
    avoid=("dequantizing first: the model takes its full size again and keeps the rounding of the quantization.",),
    seen_as=(
        "`….half()` is not supported for quantized model. Please use the model as it is…",
        "You cannot cast a bitsandbytes model in a new `dtype`.…",
    ),
    texts=texts_of(r"""
        a quantized model was cast
            12: you cannot cast a (?:\w+ )?(?:bitsandbytes|gptq|awq|quantized)\w* model in a new `?dtype
            12: `?\.(?:half|float|bfloat16|double)\(?\)?`? is not supported for (?:quantized|`?[48]-bit)
            11: casting a (?:gptq|awq|bitsandbytes|quantized) model is not supported
    """),
    cases=cases_of("""
        T02 a cast of a bitsandbytes model refused: huggingface/diffusers#11132
    """),
    is_act=True,
    settles=True,
)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_alike()
