"""What is seen of each cause, as the libraries word it; `…` stands for what differs. Data only.

>>> SEEN_AS["offload-notice"]
('Some parameters are on the meta device because they were offloaded to the …',)
"""

from __future__ import annotations

_HEADLINE = "Tensor on device … is not on the expected device meta!"
_LATER_META = "Tensor on device meta is not on the expected device …!"
_COPY = "Cannot copy out of meta tensor; no data!…"
_ITEM = "Tensor.item() cannot be called on meta tensors"
_VALUE = "… is on the meta device, we need a `value` to put in on …."
_ON_CPU_OR_DISK = "Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit the …"
_NO_FOLDER = "We need an `offload_dir` to dispatch this model according to this `device_map`…"
_SILENT = "no error, and a wrong answer"
_OOM = "…out of memory…"

SEEN_AS: dict[str, tuple[str, ...]] = {
    "quantized-cast": (
        "`….half()` is not supported for quantized model. Please use the model as it is…",
        "You cannot cast a bitsandbytes model in a new `dtype`.…",
    ),
    "moved-after-dispatch": (
        "You can't move a model that has some modules offloaded to cpu or disk.",
        _COPY,
        "The model has been loaded with `accelerate` and therefore cannot be moved to a specific device.…",
        "`.to` is not supported for `…-bit` bitsandbytes models.…",
    ),
    "saving-offloaded-model": (_COPY,),
    "concurrent-load": (_COPY, _HEADLINE),
    "concurrent-calls": (_HEADLINE, _LATER_META, _SILENT),
    "compiled-hooks": ("Skip calling `torch.compiler.disable()`d function…", _HEADLINE),
    "adapter-on-offloaded-base": (
        _COPY,
        _NO_FOLDER,
        _SILENT,
    ),
    "training-offloaded-layers": ("no error: the loss falls, and the offloaded layers get no gradient",),
    "distributed-loader-conflict": (
        "DeepSpeed Zero-3 is not compatible with …",
        _COPY,
    ),
    "hooks-removed": (_HEADLINE, _LATER_META, _COPY, _SILENT),
    "submodule-replaced": (_SILENT,),
    "forward-bypasses-hook": (_HEADLINE, _LATER_META, _SILENT),
    "constructor-on-meta": (_ITEM,),
    "quantized-offload-refused": (
        _ON_CPU_OR_DISK,
        "….__init__() got an unexpected keyword argument 'load_in_8bit_fp32_cpu_offload'",
    ),
    "device-map-incomplete": ("The device_map provided does not give any device for the following parameters: …",),
    "offload-folder-missing": (
        "The current `device_map` had weights offloaded to the disk, which needed to be re-saved.…",
        "The current `device_map` had weights offloaded to the disk. Please provide an `offload_folder` for them.…",
        _NO_FOLDER,
    ),
    "missing-weight-data": ("KeyError: '….weight'", _VALUE, "No such file or directory: …", _HEADLINE),
    "tied-weights-split": (_VALUE, "Some weights of … were not initialized from the model checkpoint…", _SILENT),
    "never-materialised": (_LATER_META, _COPY, _VALUE, _HEADLINE, _ITEM),
    "quantization-state-lost": (
        "'Parameter' object has no attribute 'CB'",
        "'Parameter' object has no attribute 'quant_state'",
        "Blockwise 4bit quantization only supports 16/32-bit floats, but got torch.uint8",
    ),
    "quantization-skipped": ("AssertionError", "no error, and a model of full size"),
    "uninitialised-values": (_SILENT, "no error, and NaN"),
    "quantization-backend-missing": (
        "Using `bitsandbytes` … quantization requires bitsandbytes: …",
        "No package metadata was found for bitsandbytes",
        "… CUDA Setup failed despite GPU being available.…",
    ),
    "weight-used-outside-hook": (_LATER_META, _HEADLINE, _COPY),
    "input-on-meta": (_COPY, _HEADLINE),
    "memory-already-taken": (_ON_CPU_OR_DISK, _OOM),
    "out-of-memory": (_OOM,),
    "environment-mismatch": ("'…' object has no attribute 'all_tied_weights_keys'",),
    "device-mismatch": ("Expected all tensors to be on the same device, but …",),
    "offload-notice": ("Some parameters are on the meta device because they were offloaded to the …",),
    "unknown": (),
}


def by_symptom(order: tuple[str, ...]) -> dict[str, list[str]]:
    """Each text with the causes that show it, the most shared text first; causes stay in `order`."""
    found: dict[str, list[str]] = {}
    for cause in order:
        for text in SEEN_AS[cause]:
            found.setdefault(text, []).append(cause)
    return dict(sorted(found.items(), key=lambda item: (item[0] != _HEADLINE, -len(item[1]))))
