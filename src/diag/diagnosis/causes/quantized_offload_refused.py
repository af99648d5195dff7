"""quantized-offload-refused: A quantized load was refused because its map holds cpu or disk."""

from diag.diagnosis.cause import ON_CPU_OR_DISK, Cause, Fixes, cases_of, texts_of
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="quantized-offload-refused",
    rank=140,
    title="A quantized load was refused because its map holds cpu or disk",
    versions="bitsandbytes 0.50.2, transformers 5.23.0, accelerate 1.15.0",
    explanation="bitsandbytes keeps packed weights on the accelerator. When the device map, often computed by 'auto', "
    "sends a module to the CPU or to disk, transformers refuses before it reads a weight. Memory need not be full: the "
    "plan alone decides, and it also counts what others hold.",
    proves=("The error is the loader's refusal, and the spec's map holds cpu or disk beside another device.",),
    rules_out=("The whole map is one device, the CPU included.",),
    check="Does the map that was used hold 'cpu' or 'disk'?",
    fix="Make it fit: free the GPU, use 4-bit instead of 8-bit, or put everything on one device (device_map='single'). "
    "llm_int8_enable_fp32_cpu_offload=True with a map as a dict loads, and leaves the offloaded modules unquantized.",
    avoid=(
        "load_in_8bit_fp32_cpu_offload: older error texts name it, but it never existed.",
        "counting on 4-bit sizes with the fp32 offload switch: offloaded modules stay at full size.",
    ),
    seen_as=(ON_CPU_OR_DISK, "….__init__() got an unexpected keyword argument 'load_in_8bit_fp32_cpu_offload'"),
    texts=texts_of(r"""
        the loader refused a quantized load whose map holds cpu or disk
            10: some modules are dispatched on the cpu or the disk\.? make sure you have enough gpu ram
        the quantizer refused a map that holds cpu or disk
            10: device_?map that contains? a? ?(?:cpu|disk)
        an argument that older error texts named, but that never existed; the real one is
            llm_int8_enable_fp32_cpu_offload
            9: unexpected keyword argument '?load_in_8bit_fp32_cpu_offload
        the quantizer refused offload
            9: disk offload is not supported for
               |cpu offload(?:ing)? is not (?:yet )?supported (?:for|with) (?:\w+ )?quantiz
        the loader names the switch for modules left unquantized on the CPU
            6: llm_int8_enable_fp32_cpu_offload=true
        the map holds cpu or disk
            10: with a map that holds cpu or disk is refused
    """),
    cases=cases_of("""
        T03 quantized load refused: modules on CPU or disk: meta-llama/llama-cookbook#56 meta-llama/llama-cookbook#333
        T04 the argument load_in_8bit_fp32_cpu_offload does not exist: Vision-CAIR/MiniGPT-4#39
            huggingface/transformers#26153
    """),
    memory_ran_short=True,
)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    why = "the whole model on one device, so that nothing is offloaded"
    return (*situation.reload_with_map("single", why), *situation.reload_unquantized())
