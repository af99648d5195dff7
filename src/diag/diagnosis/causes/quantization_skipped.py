"""quantization-skipped: quantization was asked for, and some or all layers are not quantized."""

from diag.diagnosis.cause import Cause, Fixes, Found, cases_of, texts_of
from diag.diagnosis.evidence import Evidence
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="quantization-skipped",
    rank=210,
    title="Quantization was asked for, and some or all layers are not quantized",
    severity="silent",
    versions="bitsandbytes 0.50.2, transformers 5.23.0, accelerate 1.15.0",
    explanation="A quantization config says what should be done; the layers show whether it was done. Modules that are "
    "offloaded, named in llm_int8_skip_modules, of a class that the quantizer does not know, or whose keys are missing "
    "from the checkpoint stay in full precision, or are packed classes around plain weights. The model takes far more "
    "memory than planned, or stops in fix_4bit_weight_quant_state_from_module.",
    proves=("The config asks for quantization, and Linear layers hold unpacked weights.",),
    rules_out=("Only the output head and what the config names itself are unpacked.",),
    check="Which Linear layers are of a quantized class, and which are not?",
    fix="Keep the whole model on accelerators so that nothing is left out, or repair the checkpoint's keys; then load "
    "again.",
    avoid=("trusting model.is_quantized: it repeats the config.",),
    seen_as=("AssertionError",),
    shows_as=("no error, and a model of full size",),
    texts=texts_of(r"""
        a Linear4bit whose weight was never quantized was called
            10: fix_4bit_weight_quant_state_from_module
            8: (?:fp4|nf4|4-?bit) quantization state not initialized
        the quantizer found nothing to quantize
            10: in (?:8bit or 4bit|4bit or 8bit|\w+) but no linear modules were found
        the log says that layers were not quantized
            7: (?:was|were|is|are) not quantized|skipping quantization
    """),
    cases=cases_of("""
        T09 Linear4bit whose weight was never quantized
    """),
    is_of_quantization=True,
)


def from_state(e: Evidence) -> Found:
    if e.facts and e.facts.unpacked:
        because = "The config asks for quantization, and these layers hold full-size weights."
        yield CAUSE.finding("shown", e.facts.unpacked, because=(because,))
        return
    asked = e.spec.quantization if e.spec else "none"
    if asked in ("none", "as-stored") or any(row.quantization not in ("", "none") for row in e.rows):
        return
    linears = [r.name for r in e.rows if r.module_class == "Linear" and r.name.endswith(".weight")]
    if linears:
        because = f"{asked.partition(' ')[0]} was asked for, and no layer is quantized."
        yield CAUSE.finding("shown", tuple(linears), because=(because,))


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_alike()
