"""quantization-backend-missing: the library of a quantization is absent, too old, or lacks its native part."""

from diag.diagnosis.cause import Cause, cases_of, texts_of

CAUSE = Cause(
    id="quantization-backend-missing",
    rank=230,
    title="The library that does the quantization is absent, too old, or can't find its native part",
    shown_on="the library can't be taken away from a running process; the texts are recognised",
    versions="texts about CUDA Setup belong to bitsandbytes before 0.45; recent wheels run on the CPU too",
    explanation="transformers only asks for the quantization; bitsandbytes, GPTQModel and others do it. If the package "
    "is missing, older than transformers needs, or its compiled library does not fit the driver, loading stops, or the "
    "handle is None and the first layer fails with a strange AttributeError.",
    proves=("The library can't be imported here, or the error comes from loading its native part.",),
    rules_out=("A tiny quantized model loads and runs in this environment.",),
    check="What does `python -m bitsandbytes` print?",
    fix="Install or upgrade the library in this environment (pip install -U bitsandbytes), and match its CUDA build to "
    "the driver.",
    fix_kind="environment",
    avoid=("copying a library file from another installation over it.",),
    seen_as=(
        "Using `bitsandbytes` … quantization requires bitsandbytes: …",
        "No package metadata was found for bitsandbytes",
        "… CUDA Setup failed despite GPU being available.…",
    ),
    texts=texts_of(r"""
        bitsandbytes did not find its native library
            10: cuda setup failed despite|libbitsandbytes\w*\.(?:so|dll|dylib)|configured cuda binary not found
        the native library of bitsandbytes is not the one that this version expects
            10: has no attribute '(?:cquantize|cdequantize|cget_|cadam|cgemm|cigemm|cint8|clion)\w*
                |undefined symbol: c(?:get|quantize|dequantize)\w+
        transformers found no usable bitsandbytes
            10: (?:requires|need) (?:the latest version of )?`?bitsandbytes|pip install -u `?bitsandbytes
        bitsandbytes is not installed
            10: no module named '?bitsandbytes|no package metadata was found for (?:the )?'?bitsandbytes
                |name '(?:bnb|bitsandbytes)' is not defined
        older bitsandbytes imports triton.ops, which newer triton does not have
            6: no module named '?triton\.ops
            9: ^(?=.*(?:bitsandbytes)).*(?:no module named '?triton\.ops)
        bitsandbytes runs without its GPU library
            8: bitsandbytes.*(?:was )?compiled without gpu support|bitsandbytes library load error
               |failed to load bitsandbytes
        bitsandbytes of this version finds no device that it supports
            9: no gpu found\. a gpu is needed for quantization|cuda is required but not available for bitsandbytes
               |are supported by the bitsandbytes version
        the library of this quantization is not installed
            9: (?:loading|using) an? \w+ (?:quantized )?(?:model|quantization) requires
               |(?:auto-?gptq|gptqmodel|auto-?awq|hqq|quanto|torchao|compressed-tensors|eetq
               |aqlm)\b.*(?:is not installed|to be installed|is required|not available)
        bitsandbytes is missing or too old
            10: needs bitsandbytes, and it is not installed|bitsandbytes \S+ is too old
    """),
    cases=cases_of("""
        T10 bitsandbytes' native library missing or not fitting: bitsandbytes-foundation/bitsandbytes#693
            bitsandbytes-foundation/bitsandbytes#1056
    """),
    settles=True,
    is_of_quantization=True,
)
