"""environment-mismatch: versions or builds do not fit together."""

from diag.diagnosis.cause import Cause, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Trace

CAUSE = Cause(
    id="environment-mismatch",
    rank=280,
    title="Versions or builds do not fit together",
    explanation="Model code, transformers, accelerate, PyTorch and the driver are released separately. Code written "
    "for transformers 4 misses what version 5 expects of a model class (post_init(), a mapping of tied weights); a CPU "
    "build of PyTorch meets a request for CUDA; or code reads hf_device_map, which recent versions do not always set.",
    proves=("The error names an attribute, argument or build of another version.",),
    rules_out=("The same code runs with this environment's own example.",),
    check="Which versions does `python -m diag env` or pip list show, and which does the model card ask for?",
    fix="Install the versions that the model card names, or update the model's code as the message says.",
    fix_kind="environment",
    avoid=("upgrading a single one of the libraries: their releases are tested together.",),
    seen_as=("'…' object has no attribute 'all_tied_weights_keys'",),
    texts=texts_of(r"""
        model code for transformers 4 runs under transformers 5: __init__ must call post_init()
            10: no attribute '(?:all_tied_weights_keys|_tied_weights_keys)'
        model code for transformers 4: _tied_weights_keys became a mapping in transformers 5
            7: 'list' object has no attribute 'keys'
        this PyTorch build and this machine do not fit together
            9: not compiled with (?:cuda|rocm|xpu|mps)|cuda driver version is insufficient|no kernel image is available
               |torch\.cuda\.is_available\(\) is false|invalid device ordinal
        versions of the libraries do not fit together
            8: cannot import name '\w+' from '(?:transformers|accelerate|peft|torch|diffusers|bitsandbytes
               |huggingface_hub)
            6: module 'torch' has no attribute|undefined symbol
        accelerate is missing or too old
            9: requires `?accelerate|pip install '?\"?accelerate|`?low_cpu_mem_usage=true`? or a `?device_map`? requires
        code expects a device map; recent versions set none after a load on one device
            8: no attribute 'hf_device_map'|no attribute '_hf_hook'
        a library of another version was expected
            8: unexpected keyword argument '(?:device_map|dtype|torch_dtype|offload_\w+|skip_keys|assign
               |low_cpu_mem_usage|force_hooks)'
    """),
    cases=cases_of("""
        T56 model code without post_init(): ML-GSAI/LLaDA#130 yfyeung/CLSP#2 huggingface/transformers#43951
            lucidrains/enformer-pytorch#55
        T57 _tied_weights_keys as a list: huggingface/transformers#44861 PrimeIntellect-ai/prime-rl#1998
            LG-AI-EXAONE/EXAONE-3.5#7
    """),
    is_act=True,
    follows_loss=True,
    is_vague=True,
)


def from_text(trace: Trace) -> Points:
    if trace.says("`.to`isnotsupportedfor") and trace.passes("accelerate/big_modeling.py"):
        yield Point(12, "accelerate itself called .to() while dispatching: versions that do not fit together")
