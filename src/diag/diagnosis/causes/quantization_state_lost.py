"""quantization-state-lost: packed weights lost their quantization state."""

from collections.abc import Iterator

from diag.diagnosis.cause import Case, Cause, Point, Text
from diag.diagnosis.evidence import Evidence, Lack, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding, Fix

CAUSE = Cause(
    id="quantization-state-lost",
    rank=200,
    title="Packed weights lost their quantization state",
    versions="bitsandbytes 0.50.2, transformers 5.23.0, accelerate 1.15.0; bitsandbytes 0.50 restores a lost 4-bit "
    "state from the module where it can",
    explanation="A 4-bit or 8-bit weight is a block of bytes; scale factors stored beside it say what the bytes "
    "mean. Copying the weight by hand, rebuilding it as nn.Parameter, deep copies by tools, or moving only the bytes "
    "loses the scales. Then the layer fails, or the bytes are used as numbers or quantized once more.",
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
    texts=(
        Text(
            r"'(?:params4bit|int8params|parameter|tensor)' object has no attribute '(?:absmax|"
            r"quant_state|cb|scb|compress_statistics|quant_type|blocksize|code|bnb_quantized)'",
            9,
            "a packed weight without its quantization state was used",
            group=1,
        ),
        Text(
            r"blockwise quantization only supports 16/32-bit floats,? but got torch\.u?int8",
            9,
            "a weight that is already packed was quantized again",
        ),
        Text(
            r"'nonetype' object has no attribute '(?:absmax|scb|cb|quant_state|quant_type|"
            r"state2|nested|blocksize)'",
            8,
            "a packed weight without its quantization state was used",
            group=1,
        ),
        Text(
            r"mat1 and mat2 shapes cannot be multiplied \(\d+x\d+ and 1x\d+\)|torch\.size\(\[\d{4,}, ?1\]\)",
            8,
            "a packed 4-bit weight (one column of bytes) was used as an ordinary matrix",
            beside=r"bitsandbytes|bnb|4-?bit|params4bit|uint8|quant_?state|nf4|fp4",
        ),
        Text(
            r"does not contain `?bitsandbytes__|quantized_stats",
            9,
            "the checkpoint holds packed weights without their state",
        ),
        Text(r"quant_state is not none|quant_state\b.*\bnone", 7, "the quantization state is missing"),
        Text(r"quant_state|params4bit|absmax", 4, "the state of a 4-bit weight is named", near_meta=True),
    ),
    cases=(
        Case("T06", "quantization state on meta in a diffusers pipeline", "huggingface/diffusers#12799"),
        Case(
            "T07",
            "a packed uint8 weight quantized again",
            "huggingface/diffusers#10800 bitsandbytes-foundation/bitsandbytes#1279",
        ),
        Case("T08", "Params4bit or Parameter without its state", "bitsandbytes-foundation/bitsandbytes#1405"),
        Case(
            "T71",
            "AWQ, GPTQ, HQQ, quanto, torchao under offload",
            "casper-hansen/AutoAWQ#77 AutoGPTQ/AutoGPTQ#47 ModelCloud/GPTQModel#304 dropbox/hqq#61",
        ),
    ),
    is_of_quantization=True,
)


def from_state(e: Evidence) -> Iterator[Finding]:
    if lost := e.lost.get(Lack.STATE_ON_META):
        yield CAUSE.lacking(lost, "The scales of packed weights are on meta.")
    if e.facts and e.facts.stateless:
        because = "The weights are packed bytes, and nothing says what the bytes mean."
        yield CAUSE.finding("shown", e.facts.stateless, because=(because,))
    if e.facts and e.facts.off_meta_state:
        because = "The weights are here, and their quantization state is on meta."
        yield CAUSE.finding("shown", e.facts.off_meta_state, because=(because,))


def from_text(trace: Trace) -> Iterator[Point]:
    if trace.copies_meta and trace.passes("/bitsandbytes/"):
        said = "a meta tensor was to be copied to a real device inside bitsandbytes"
        yield Point(8, f"{said}: the quantization state is on meta")


def fixes(finding: Finding, situation: Situation) -> tuple[Fix, ...]:
    return situation.reload_alike()
