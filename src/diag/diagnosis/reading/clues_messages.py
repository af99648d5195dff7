# ruff: noqa: E501 - one row per text: breaking a pattern would hide it
"""What single texts say about the cause: data, one row per text. Standard library only.

A pattern is compared with the text in lower case and without white space, so that wrapped lines still match; spaces in
a pattern are for the reader. `beside` is what the text must hold as well, where other programs write the same words.
Ten points mean that one place in one library raises this; fewer, that other causes give the same text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clue:
    cause: str
    points: int
    pattern: str
    says: str
    beside: str = ""


_PACKED = r"bitsandbytes|bnb|4-?bit|params4bit|uint8|quant_?state|nf4|fp4"
_SHARDED = r"deepspeed|zero_?(?:stage)?[-=: ]?3\b|zero3|fsdp|fully_?sharded"


def _rows(cause: str, *rows: tuple) -> tuple[Clue, ...]:
    return tuple(Clue(cause, points, pattern, says, *rest) for points, pattern, says, *rest in rows)


_MEMORY = (
    *_rows(
        "out-of-memory",
        (10, r"(?:cuda|hip|xpu|mps|npu|musa|mlu|privateuse\w*|simgpu\S*)(?:error:)? (?:backend)? out of memory",
         "a device ran out of memory"),
        (9, r"(?<!java\.lang\.)outofmemoryerror(?!: ?java)", "a device ran out of memory"),
        (8, r"invalid buffer size: ?[\d.]+ ?[kmgt]i?b", "Metal could not allocate a buffer of that size"),
        (10, r"defaultcpuallocator: (?:can't allocate memory|not enough memory)", "the host ran out of memory"),
        (8, r"cannot allocate memory|unable to allocate [\d.]+ [kmgt]ib|\(os error 1455\)|paging file is too small",
         "the host ran out of memory"),
        (8, r"cublas_status_alloc_failed", "cuBLAS could not allocate its workspace"),
        (8, r"(?<!outof)memoryerror", "the host ran out of memory"),
        (7, r"exit(?:ed with)? (?:code|status)[:=]? ?137|oomkill|oom-kill|out of memory: killed process|died with.*sigkill:? ?9",
         "the process was killed, as the system does when memory runs out"),
    ),
    *_rows(
        "memory-already-taken",
        (10, r"free memory on device (?:\S+ )?\([\d.]+/[\d.]+ ?gib\) on startup is less than desired",
         "less memory was free at startup than the engine was told to take: something else holds the rest"),
    ),
)  # fmt: skip

_MOVED = _rows(
    "moved-after-dispatch",
    (10, r"you can't move a model that has some modules offloaded to cpu or disk",
     "accelerate's guard on .to() and .cuda() of a dispatched model"),
    (8, r"you shouldn't move a model (?:that is|when it is) dispatched", "accelerate warns that a dispatched model was moved"),
    (10, r"has been loaded with `?accelerate`? and therefore cannot be moved to a specific device",
     "a pipeline was given device= together with a dispatched model"),
    (10, r"device type at start of device string: disk", "a pipeline took 'disk' from the device map as its device"),
    (10, r"it seems like you have activated (?:sequential model offloading|a device mapping strategy)",
     "a diffusers pipeline with offload hooks was moved"),
    (9, r"pipelines? (?:loaded|with) .*cannot be moved|cannot (?:be )?mov\w+ .*(?:dispatched|offloaded) model",
     "a dispatched model was moved"),
    (10, r"`\.(?:to|cuda)` is not supported for `?(?:4-bit|8-bit)|calling `?cuda\(\)`? is not supported for `?(?:4-bit|8-bit)",
     "a bitsandbytes model was moved after loading"),
)  # fmt: skip

_QUANTIZED = (
    *_rows(
        "quantized-cast",
        (12, r"you cannot cast a (?:\w+ )?(?:bitsandbytes|gptq|awq|quantized)\w* model in a new `?dtype",
         "a quantized model was cast"),
        (12, r"`?\.(?:half|float|bfloat16|double)\(?\)?`? is not supported for (?:quantized|`?[48]-bit)", "a quantized model was cast"),
        (11, r"casting a (?:gptq|awq|bitsandbytes|quantized) model is not supported", "a quantized model was cast"),
    ),
    *_rows(
        "quantized-offload-refused",
        (10, r"some modules are dispatched on the cpu or the disk\.? make sure you have enough gpu ram",
         "the loader refused a quantized load whose map holds cpu or disk"),
        (10, r"device_?map that contains? a? ?(?:cpu|disk)", "the quantizer refused a map that holds cpu or disk"),
        (9, r"unexpected keyword argument '?load_in_8bit_fp32_cpu_offload",
         "an argument that older error texts named, but that never existed; the real one is llm_int8_enable_fp32_cpu_offload"),
        (9, r"disk offload is not supported for|cpu offload(?:ing)? is not (?:yet )?supported (?:for|with) (?:\w+ )?quantiz",
         "the quantizer refused offload"),
        (6, r"llm_int8_enable_fp32_cpu_offload=true", "the loader names the switch for modules left unquantized on the CPU"),
    ),
    *_rows(
        "quantization-state-lost",
        (9, r"'(?:params4bit|int8params|parameter|tensor)' object has no attribute '(?:absmax|quant_state|cb|scb|compress_statistics|quant_type|blocksize|code|bnb_quantized)'",
         "a packed weight without its quantization state was used"),
        (9, r"blockwise quantization only supports 16/32-bit floats,? but got torch\.u?int8",
         "a weight that is already packed was quantized again"),
        (8, r"'nonetype' object has no attribute '(?:absmax|scb|cb|quant_state|quant_type|state2|nested|blocksize)'",
         "a packed weight without its quantization state was used"),
        (8, r"mat1 and mat2 shapes cannot be multiplied \(\d+x\d+ and 1x\d+\)|torch\.size\(\[\d{4,}, ?1\]\)",
         "a packed 4-bit weight (one column of bytes) was used as an ordinary matrix", _PACKED),
        (9, r"does not contain `?bitsandbytes__|quantized_stats", "the checkpoint holds packed weights without their state"),
        (7, r"quant_state is not none|quant_state\b.*\bnone", "the quantization state is missing"),
    ),
    *_rows(
        "quantization-skipped",
        (10, r"fix_4bit_weight_quant_state_from_module", "a Linear4bit whose weight was never quantized was called"),
        (8, r"(?:fp4|nf4|4-?bit) quantization state not initialized", "a Linear4bit whose weight was never quantized was called"),
        (10, r"in (?:8bit or 4bit|4bit or 8bit|\w+) but no linear modules were found", "the quantizer found nothing to quantize"),
        (7, r"(?:was|were|is|are) not quantized|skipping quantization", "the log says that layers were not quantized"),
    ),
    *_rows(
        "quantization-backend-missing",
        (10, r"cuda setup failed despite|libbitsandbytes\w*\.(?:so|dll|dylib)|configured cuda binary not found",
         "bitsandbytes did not find its native library"),
        (10, r"has no attribute '(?:cquantize|cdequantize|cget_|cadam|cgemm|cigemm|cint8|clion)\w*|undefined symbol: c(?:get|quantize|dequantize)\w+",
         "the native library of bitsandbytes is not the one that this version expects"),
        (10, r"(?:requires|need) (?:the latest version of )?`?bitsandbytes|pip install -u `?bitsandbytes",
         "transformers found no usable bitsandbytes"),
        (10, r"no module named '?bitsandbytes|no package metadata was found for (?:the )?'?bitsandbytes|name '(?:bnb|bitsandbytes)' is not defined",
         "bitsandbytes is not installed"),
        (6, r"no module named '?triton\.ops", "older bitsandbytes imports triton.ops, which newer triton does not have"),
        (9, r"no module named '?triton\.ops", "older bitsandbytes imports triton.ops, which newer triton does not have", "bitsandbytes"),
        (8, r"bitsandbytes.*(?:was )?compiled without gpu support|bitsandbytes library load error|failed to load bitsandbytes",
         "bitsandbytes runs without its GPU library"),
        (9, r"no gpu found\. a gpu is needed for quantization|cuda is required but not available for bitsandbytes|are supported by the bitsandbytes version",
         "bitsandbytes of this version finds no device that it supports"),
        (9, r"(?:loading|using) an? \w+ (?:quantized )?(?:model|quantization) requires|(?:auto-?gptq|gptqmodel|auto-?awq|hqq|quanto|torchao|compressed-tensors|eetq|aqlm)\b.*(?:is not installed|to be installed|is required|not available)",
         "the library of this quantization is not installed"),
    ),
)  # fmt: skip

_MAPS = (
    *_rows(
        "device-map-incomplete",
        (10, r"does ?n[o']t give any device for the following parameters?", "the device map leaves parameters without a device"),
        (10, r"doesn't have any device set|does not have any device set", "the device map leaves a module without a device"),
        (8, r"device_map ?keys? (?:do not|don't) match any|device_?map contains keys? that",
         "the device map names modules that do not exist"),
        (9, r"when passing device_map as a string,? the value needs to be", "the device map is not a name that the loader knows"),
        (7, r"does not support `?device_map='?\w+'?`?|needs? to implement the `?_no_split_modules",
         "the model class does not say which blocks may not be split"),
    ),
    *_rows(
        "offload-folder-missing",
        (10, r"weights offloaded to the disk\. please provide an `?offload_(?:folder|dir)", "the map needs disk, and no folder was given"),
        (10, r"we need an `?offload_(?:dir|folder)`? to dispatch|we need either a `?state_dict`? or an `?offload_(?:dir|folder)",
         "the map needs disk, and no folder was given"),
        (8, r"provide an? `?offload_(?:dir|folder)|which needed to be re-?saved", "disk offload has to save weights anew, and no folder was given"),
    ),
    *_rows(
        "tied-weights-split",
        (10, r"tied parameters are on different devices", "accelerate warns that tied parameters are on different devices"),
        (8, r"model weights are not tied\. please use the `?tie_weights", "accelerate warns that weights were not tied before the map was made"),
        (7, r"shared tensors? .*mismatch", "tensors that share memory were met"),
        (8, r"(?:not|newly) initialized[^.]{0,40}\['?lm_head\.weight'?\]", "only the tied output head is reported as newly initialized"),
    ),
    *_rows("offload-notice", (9, r"parameters are on the meta device (?:device )?because they were offloaded",
                              "accelerate's ordinary notice about offloading")),
)  # fmt: skip

_OURS = (
    *_rows("quantized-offload-refused", (10, r"with a map that holds cpu or disk is refused", "the map holds cpu or disk")),
    *_rows("device-map-incomplete", (10, r"the device map (?:gives no device to|names \d+ modules? that)", "the map and the model's names differ")),
    *_rows("quantization-backend-missing", (10, r"needs bitsandbytes, and it is not installed|bitsandbytes \S+ is too old", "bitsandbytes is missing or too old")),
    *_rows("adapter-on-offloaded-base", (10, r"an adapter on a base that is offloaded", "PEFT would rewrite the base's files")),
    *_rows("distributed-loader-conflict", (10, r"together with deepspeed zero-3 is refused", "ZeRO-3 and a device map exclude each other")),
    *_rows("memory-already-taken", (10, r"tensors of an earlier load are still alive", "an earlier model of this process holds the memory")),
)  # fmt: skip

_META = (
    *_rows(
        "never-materialised",
        (10, r"`?from_pretrained`? with a meta device context manager|set_default_device\('meta'\)",
         "the loader was called while a meta device was the default"),
        (10, r"copying from a non-?meta parameter in the checkpoint to a meta parameter",
         "load_state_dict without assign=True: on meta parameters it does nothing"),
        (7, r"device_map=\{?['\"]*:?['\"]?meta['\"]", "device_map='meta' builds shapes without data"),
        (5, r"init_empty_weights\(|torch\.device\(['\"]meta['\"]\)|ondevice\(.*meta", "the model was built without data"),
        (6, r"lora_\w+.*low_cpu_mem_usage=true|get_peft_model\(.*low_cpu_mem_usage=true",
         "adapter weights were created on meta and wait for a load"),
    ),
    *_rows("hooks-removed", (8, r"remove_hook_from_(?:module|submodules)\(|remove_all_hooks\(\)", "the offload hooks were taken off")),
    *_rows("uninitialised-values", (5, r"(?<!nn\.module)\.to_empty\(", "to_empty() leaves uninitialised values"),
           (5, r"newly initialized|\|\s*missing\s*\|", "the loader reports tensors that the checkpoint did not have"),
           (4, r"probability tensor contains either|loss(?:'?:|=) ?nan|all logits? .*nan", "values are not numbers")),
    *_rows("input-on-meta", (3, r"\.to\((?:self\.)?(?:\w+\.)*(?:model|encoder|decoder|unet|transformer|vae)\.device\)|next\([\w.]*parameters\(\)\)\.device",
                             "inputs were sent to the device of the model's first parameter")),
    *_rows(
        "saving-offloaded-model",
        (10, r"you can't save the model since some parameters are on the meta device", "accelerate's guard on saving placeholders"),
        (10, r"local object '?add_hook_to_module\.", "a model was pickled with accelerate's hooks on it, which are local functions"),
        (9, r"(?:can't|cannot|not) (?:be )?sav\w+ .*(?:offloaded|meta)|offloaded .*(?:can't|cannot) be saved", "a model with placeholders was saved"),
    ),
)  # fmt: skip

_RUNS = (
    *_rows(
        "training-offloaded-layers",
        (10, r"can't train a model that has been loaded in 8-?bit or 4-?bit precision with cpu or disk offload",
         "accelerate refuses to train a quantized model that is partly offloaded"),
    ),
    *_rows(
        "distributed-loader-conflict",
        (10, r"zero-?3 is not compatible with", "transformers refuses ZeRO-3 together with a device map or a low-memory load"),
        (10, r"can't train a model that has been loaded with `?device_map='?auto'?`? in any distributed mode",
         "accelerate refuses a model that is split over devices in a distributed run"),
        (9, r"8-?bit or 4-?bit precision on a different device than the one you're training",
         "each rank must load the quantized model on its own device"),
        (8, r"'weight' must be 2-d|current model is torch\.size\(\[0\]\)",
         "a parameter that ZeRO-3 or FSDP holds in shards was used as a whole"),
        (8, r"torch\.size\(\[0\]\)", "a parameter that ZeRO-3 or FSDP holds in shards was used as a whole", _SHARDED),
        (8, r"(?:fsdp|fully ?sharded|param_init_fn|reset_parameters).{0,120}meta|meta.{0,80}(?:param_init_fn|fsdp_cpu_ram_efficient)",
         "FSDP met parameters on meta"),
        (2, r"deepspeed|zero_?(?:stage)?[-=: ]?3\b|fsdp", "DeepSpeed or FSDP is part of the run"),
    ),
    *_rows(
        "compiled-hooks",
        (9, r"dynamo failed to run fakes|fakens?tensor device propagation|torch\.compiler\.disable\(\)`?d function",
         "torch.compile traced the model"),
    ),
    *_rows(
        "environment-mismatch",
        (10, r"no attribute '(?:all_tied_weights_keys|_tied_weights_keys)'", "model code for transformers 4 runs under transformers 5: __init__ must call post_init()"),
        (7, r"'list' object has no attribute 'keys'", "model code for transformers 4: _tied_weights_keys became a mapping in transformers 5"),
        (9, r"not compiled with (?:cuda|rocm|xpu|mps)|cuda driver version is insufficient|no kernel image is available|torch\.cuda\.is_available\(\) is false|invalid device ordinal",
         "this PyTorch build and this machine do not fit together"),
        (8, r"cannot import name '\w+' from '(?:transformers|accelerate|peft|torch|diffusers|bitsandbytes|huggingface_hub)",
         "versions of the libraries do not fit together"),
        (9, r"requires `?accelerate|pip install '?\"?accelerate|`?low_cpu_mem_usage=true`? or a `?device_map`? requires", "accelerate is missing or too old"),
        (8, r"no attribute 'hf_device_map'|no attribute '_hf_hook'", "code expects a device map; recent versions set none after a load on one device"),
        (8, r"unexpected keyword argument '(?:device_map|dtype|torch_dtype|offload_\w+|skip_keys|assign|low_cpu_mem_usage|force_hooks)'",
         "a library of another version was expected"),
        (6, r"module 'torch' has no attribute|undefined symbol", "versions of the libraries do not fit together"),
    ),
)  # fmt: skip

CLUES: tuple[Clue, ...] = (*_MEMORY, *_MOVED, *_QUANTIZED, *_MAPS, *_OURS, *_META, *_RUNS)
