"""never-materialised: the model was built without data, and nothing ever filled it."""

from diag.diagnosis.cause import (
    COPY,
    HEADLINE,
    ITEM,
    LATER_META,
    NO_TO_EMPTY,
    VALUE,
    Cause,
    Fixes,
    Found,
    Point,
    Points,
    cases_of,
    texts_of,
)
from diag.diagnosis.evidence import Evidence, Lack, Trace
from diag.diagnosis.situation import Situation, put_the_adapter_on_again
from diag.values.finding import Finding

CAUSE = Cause(
    id="never-materialised",
    rank=190,
    looks_at=("lost", "bare_meta"),
    title="The model was built without data, and nothing ever filled it",
    versions="transformers 5 refuses torch.device('meta') around from_pretrained, but not init_empty_weights().",
    explanation="A tensor on the device 'meta' has a shape and a dtype, but no numbers. Libraries build a model that "
    "way first, because it is fast and takes no memory, and fill it with the checkpoint afterwards. Here the second "
    "half did not happen: the load ran inside init_empty_weights() or a meta device context, with device_map='meta', "
    "or load_state_dict() was called without assign=True, which reports success and changes nothing on meta "
    "parameters. Some operations raise, others return a meta tensor or random memory.",
    proves=(
        "Parameters are on meta, and no accelerate hook with a store of weights serves them.",
        "The model has no hf_device_map although nothing of it is real.",
    ),
    rules_out=("Every meta tensor has a live hook whose store holds it: then it is offloaded, which is healthy.",),
    check="Was from_pretrained called inside init_empty_weights() or torch.device('meta'), or was load_state_dict "
    "called without assign=True?",
    fix="Load again outside of any meta context, with device_map='auto' or 'none'. With load_state_dict, pass "
    "assign=True and recompute the buffers that are not saved.",
    avoid=(NO_TO_EMPTY, ".to(device): there are no numbers to move, so it raises 'Cannot copy out of meta tensor'."),
    seen_as=(LATER_META, COPY, VALUE, HEADLINE, ITEM),
    texts=texts_of(r"""
        the loader was called while a meta device was the default
            10: `?from_pretrained`? with a meta device context manager|set_default_device\('meta'\)
        load_state_dict without assign=True: on meta parameters it does nothing
            10: copying from a non-?meta parameter in the checkpoint to a meta parameter
        device_map='meta' builds shapes without data
            7: device_map=\{?['\"]*:?['\"]?meta['\"]
        the model was built without data
            5: init_empty_weights\(|torch\.device\(['\"]meta['\"]\)|ondevice\(.*meta
        adapter weights were created on meta and wait for a load
            6: lora_\w+.*low_cpu_mem_usage=true|get_peft_model\(.*low_cpu_mem_usage=true
        near meta: the model was built without data
            4: init_inference|init_empty_weights|device_map=['\"]meta
    """),
    cases=cases_of("""
        T05 4-bit load: weight is on the meta device, a value is needed: huggingface/accelerate#1858
            unslothai/unsloth#89 hiyouga/LlamaFactory#2186
        T16 deepspeed.init_inference given a model without data: deepspeedai/DeepSpeed#3012 deepspeedai/DeepSpeed#2856
            deepspeedai/DeepSpeed#7275
        T17 a norm weight without data in a CPU run: lm-sys/FastChat#580
        T20 Module.to meets tensors without data: huggingface/transformers#28972 appletea233/LLaVA-ST#5
            huggingface/transformers#30703
        T21 from_pretrained inside a meta device context: huggingface/transformers#36309 huggingface/transformers#38066
            pytorch/pytorch#153332
        T22 from_pretrained inside init_empty_weights: huggingface/accelerate#2906 vllm-project/vllm#377
            deepspeedai/DeepSpeed#7275
        T26 load_state_dict without assign is a no-op: LLaVA-VL/LLaVA-NeXT#494 huggingface/transformers#36309
            Roblox/RobloxGuard-1.0#3
        T33 LoRA weights left on meta by low_cpu_mem_usage: axolotl-ai-cloud/axolotl#3977 showlab/videollm-online#73
        T35 LoRA put on a base that was built on meta: InternLM/xtuner#686 InternLM/xtuner#697
        T85 device_map='meta' accepted: TransformerLensOrg/TransformerLens#1493
    """),
    needs="orphans",
    loses_data=True,
    is_ambiguous=True,
)


def from_state(e: Evidence) -> Found:
    if lost := e.lost.get(Lack.NEVER_FILLED):
        parameters = [row for row in e.rows if row.kind == "parameter"]
        empty = sum(row.is_orphan for row in parameters)
        because = f"{empty} of {len(parameters)} parameters have no data, and no hook serves them."
        yield CAUSE.lacking(lost, because)
    if e.facts and e.facts.bare_meta and not e.orphans:
        because = "Plain attributes that were built on meta: no load fills them."
        yield CAUSE.finding("shown", e.facts.bare_meta, because=(because,))


def from_text(trace: Trace) -> Points:
    if trace.meets_meta:
        if trace.forward_without_hook:
            yield Point(2 if trace.dispatched else 5, f"{trace.order}, and no offload hook is in the trace")
        yield Point(3, trace.order)
    if trace.copying_parameter:
        yield Point(4, "load_state_dict was given meta tensors as the source")
    if trace.copies_meta:
        if trace.passes("deepspeed/inference") or trace.calls("init_inference"):
            yield Point(9, "DeepSpeed's inference engine got a model that holds no data")
        if trace.says("to_empty()insteadof") or trace.moves_something:
            yield Point(3 if trace.dispatched else 5, "a module was moved whose tensors have no data here")
        else:
            yield Point(3, "a meta tensor was to be copied to a real device")
    if trace.value_asked:
        if trace.passes("generation/"):
            yield Point(4, "the value of a meta tensor was asked for in generate()")
        yield Point(3, "the value of a meta tensor was asked for")
    if trace.needed_value:
        usual = ("load_in_4bit", "bnb_4bit", "fsdp", "init_empty_weights", "low_cpu_mem_usage=false", "force_hooks")
        yield Point(8 if trace.says(*usual) else 4, trace.no_value_for)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    reload = situation.reload_alike()
    if not (situation.adapter_is_unknown and situation.names_adapter_part(finding.tensors)):
        return reload
    how = (
        "load it with its weights, PeftModel.from_pretrained(base, '<folder>'); an adapter that is new needs "
        "get_peft_model(base, config) without low_cpu_mem_usage, which leaves it on meta."
    )
    return (*reload, put_the_adapter_on_again(how))
