"""distributed-loader-conflict: DeepSpeed, FSDP or a launcher meets a device map or a low-memory load."""

from diag.diagnosis.cause import COPY, Cause, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Trace

CAUSE = Cause(
    id="distributed-loader-conflict",
    rank=90,
    title="DeepSpeed, FSDP or a distributed launch together with a device map or a low-memory load",
    shown_on="needs several processes and DeepSpeed or FSDP",
    explanation="ZeRO-3 and FSDP split the weights over processes themselves; a device map wants to place them too. "
    "Ranks other than 0 build on meta and wait for their shards. Where both are active, or the order of "
    "TrainingArguments and from_pretrained is wrong, ranks are left with meta or empty tensors.",
    proves=("The loader refuses the combination, or a ZeRO-3 or FSDP setting is active while a map is given.",),
    rules_out=("One process, no DeepSpeed or FSDP setting.",),
    check="Is the run started with torchrun, accelerate launch or deepspeed, and does the load pass device_map?",
    fix="Drop device_map (and low_cpu_mem_usage) under ZeRO-3 or FSDP; for data parallel runs give each rank its own "
    "device: device_map={'': local_rank}.",
    avoid=("device_map='auto' in a distributed launch: every rank would split the model over all GPUs.",),
    seen_as=("DeepSpeed Zero-3 is not compatible with …", COPY),
    texts=texts_of(r"""
        ZeRO-3 and a device map exclude each other
            10: together with deepspeed zero-3 is refused
        transformers refuses ZeRO-3 together with a device map or a low-memory load
            10: zero-?3 is not compatible with
        accelerate refuses a model that is split over devices in a distributed run
            10: can't train a model that has been loaded with `?device_map='?auto'?`? in any distributed mode
        each rank must load the quantized model on its own device
            9: 8-?bit or 4-?bit precision on a different device than the one you're training
        a parameter that ZeRO-3 or FSDP holds in shards was used as a whole
            8: 'weight' must be 2-d|current model is torch\.size\(\[0\]\)
            8: ^(?=.*(?:deepspeed|zero_?(?:stage)?[-=: ]?3\b|zero3|fsdp|fully_?sharded)).*(?:torch\.size\(\[0\]\))
        FSDP met parameters on meta
            8: (?:fsdp|fully ?sharded|param_init_fn|reset_parameters).{0,120}meta
               |meta.{0,80}(?:param_init_fn|fsdp_cpu_ram_efficient)
        DeepSpeed or FSDP is part of the run
            2: deepspeed|zero_?(?:stage)?[-=: ]?3\b|fsdp
        near meta: DeepSpeed or FSDP is part of it
            4: deepspeed|zero-?_?3|fsdp|ram_efficient
    """),
    cases=cases_of("""
        T12 ZeRO-3 refuses device_map: OptimalScale/LMFlow#620 OptimalScale/LMFlow#686 huggingface/accelerate#2543
        T13 QLoRA with ZeRO-3: copy out of meta: huggingface/accelerate#2809 huggingface/transformers#31104
            modelscope/ms-swift#9345
        T14 load_state_dict given meta tensors as the source: huggingface/transformers#37300 pytorch/pytorch#105963
            huggingface/transformers#25107
        T15 FSDP: other ranks load on meta: huggingface/transformers#26510 huggingface/accelerate#2031
            huggingface/accelerate#2082
        T69 device_map with a distributed launch: huggingface/transformers#31557 QwenLM/Qwen#900 QwenLM/Qwen-VL#218
    """),
    needs="processes",
    enough=10,
    is_act=True,
)


def from_text(trace: Trace) -> Points:
    if trace.copying_parameter:
        ranks = trace.says("deepspeed", "fsdp", "zero3", "rank", "torchrun", "accelerate/commands/launch")
        given = "load_state_dict was given meta tensors as the source"
        yield Point(9 if ranks else 2, f"{given}, as ranks other than 0 get")
    inference = trace.passes("deepspeed/inference") or trace.calls("init_inference")
    if trace.copies_meta and not inference and trace.passes("/deepspeed/", "torch/distributed/fsdp"):
        yield Point(8, "a meta tensor was to be copied to a real device while DeepSpeed or FSDP prepared the model")
    if trace.says("defaultprocessgrouphasnotbeeninitialized"):
        yield Point(4, "distributed code ran without a process group")
