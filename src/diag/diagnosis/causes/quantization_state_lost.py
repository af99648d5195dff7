"""quantization-state-lost: packed weights lost their quantization state."""

from diag.diagnosis.cause import Cause, Fixes, Found, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, Lack, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="quantization-state-lost",
    rank=200,
    looks_at=("lost", "stateless", "off_meta_state"),
    title="Packed weights lost their quantization state",
    versions="bitsandbytes 0.50.2, transformers 5.23.0, accelerate 1.15.0; bitsandbytes 0.50 restores a lost 4-bit "
    "state from the module where it can",
    explanation="A 4-bit or 8-bit weight is a block of bytes; scale factors stored beside it say what the bytes mean. "
    "Copying the weight by hand, rebuilding it as nn.Parameter, deep copies by tools, or moving only the bytes loses "
    "the scales. Then the layer fails, or the bytes are used as numbers or quantized once more.",
    proves=(
        "A packed weight (uint8 or int8 in a quantized layer) has no quant_state or no scales.",
        "The quantization state is on meta while the weight is real.",
    ),
    rules_out=("Every packed weight has its state on the same device.",),
    check="Is type(layer.weight) still Params4bit or Int8Params, with its state?",
    fix="Load the model again; never rebuild a packed parameter by hand.",
    avoid=("casting the bytes to float: they are indices, not numbers.",),
    seen_as=(
        "'Parameter' object has no attribute 'CB'",
        "'Parameter' object has no attribute 'quant_state'",
        "Blockwise 4bit quantization only supports 16/32-bit floats, but got torch.uint8",
    ),
    texts=texts_of(r"""
        a packed weight without its quantization state was used
            9: '(?:params4bit|int8params|parameter|tensor)' object has no attribute '(?:absmax|quant_state|cb|scb
               |compress_statistics|quant_type|blocksize|code|bnb_quantized)'
            8: 'nonetype' object has no attribute '(?:absmax|scb|cb|quant_state|quant_type|state2|nested|blocksize)'
        a weight that is already packed was quantized again
            9: blockwise quantization only supports 16/32-bit floats,? but got torch\.u?int8
        a packed 4-bit weight (one column of bytes) was used as an ordinary matrix
            8: ^(?=.*(?:bitsandbytes|bnb|4-?bit|params4bit|uint8|quant_?state|nf4
               |fp4)).*(?:mat1 and mat2 shapes cannot be multiplied \(\d+x\d+ and 1x\d+\)|torch\.size\(\[\d{4,}, ?1\]\))
        the checkpoint holds packed weights without their state
            9: does not contain `?bitsandbytes__|quantized_stats
        the quantization state is missing
            7: quant_state is not none|quant_state\b.*\bnone
        near meta: the state of a 4-bit weight is named
            4: quant_state|params4bit|absmax
    """),
    cases=cases_of("""
        T06 quantization state on meta in a diffusers pipeline: huggingface/diffusers#12799
        T07 a packed uint8 weight quantized again: huggingface/diffusers#10800 bitsandbytes-foundation/bitsandbytes#1279
        T08 Params4bit or Parameter without its state: bitsandbytes-foundation/bitsandbytes#1405
        T71 AWQ, GPTQ, HQQ, quanto, torchao under offload: casper-hansen/AutoAWQ#77 AutoGPTQ/AutoGPTQ#47
            ModelCloud/GPTQModel#304 dropbox/hqq#61
    """),
    is_of_quantization=True,
)


def from_state(e: Evidence) -> Found:
    if lost := e.lost.get(Lack.STATE_ON_META):
        yield CAUSE.lacking(lost, "The scales of packed weights are on meta.")
    if e.facts and e.facts.stateless:
        because = "The weights are packed bytes, and nothing says what the bytes mean."
        yield CAUSE.finding("shown", e.facts.stateless, because=(because,))
    if e.facts and e.facts.off_meta_state:
        because = "The weights are here, and their quantization state is on meta."
        yield CAUSE.finding("shown", e.facts.off_meta_state, because=(because,))


def from_text(trace: Trace) -> Points:
    if trace.copies_meta and trace.passes("/bitsandbytes/"):
        said = "a meta tensor was to be copied to a real device inside bitsandbytes"
        yield Point(8, f"{said}: the quantization state is on meta")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_alike()
