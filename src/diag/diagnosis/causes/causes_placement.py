"""Catalogue entries: maps, devices and memory. Prose, nothing else."""

from __future__ import annotations

from diag.diagnosis.cause import Cause

PLACEMENT_CAUSES = (
    Cause(
        id="moved-after-dispatch",
        title="A dispatched model was moved",
        explanation=(
            "After a load with a device map every module has its place, and hooks move the data. .to(), .cuda(), "
            ".cpu() or a pipeline's device= then fight the hooks. accelerate guards .to() and .cuda() on the whole "
            "model; .cpu() and any submodule reach the placeholders and raise 'Cannot copy out of meta tensor'. The "
            "model itself is unharmed."
        ),
        proves=("The failing call is .to(), .cuda() or .cpu() on a model with live offload hooks.",),
        rules_out=("No hook serves the meta tensors: then there is no data, and moving is not the problem.",),
        check="Does the traceback end in .to(), .cuda(), .cpu(), or in a pipeline that was given device=?",
        fix="Remove the call. To have the model on one device, load it there (device_map='single'), or bring the "
        "data in first: diag.materialise(model, device=...).",
        avoid=(
            "to_empty(), although PyTorch's message proposes it: it throws the weights away.",
            "reloading because 'the model is broken': after the failed call it still answers right.",
        ),
    ),
    Cause(
        id="device-mismatch",
        title="Two real devices met in one operation",
        explanation=(
            "Nothing is on meta: an operation got one tensor on a GPU and another on the CPU or on a second GPU. "
            "Inputs left on the CPU without hooks to move them, a block with a skip connection split over two GPUs, "
            "or a part that a helper parked on the CPU are the usual reasons."
        ),
        proves=("Tensors of one module, or a module and its input, are on different real devices, without a hook.",),
        rules_out=("Hooks move the inputs of every module that is elsewhere.",),
        check="Which two devices does the text name, and is one of them the inputs'?",
        fix="Send the inputs to diag.input_device(model), and let the loader make the map so that no block is split.",
        avoid=("adding .to(device) inside the model's code: the next map breaks it again.",),
        shown_on="simulated",
    ),
    Cause(
        id="device-map-incomplete",
        title="The device map does not cover the model, or names modules that do not exist",
        explanation=(
            "A map written by hand has to give every parameter a device, directly or through a parent. A typo, an "
            "older layout (rotary_emb moved to the top of the model in recent versions) or a new head leaves "
            "something out. With several devices accelerate refuses; with one device, and for buffers, it does not, "
            "and the rest stays where it was."
        ),
        proves=("Names in the map match no module, or tensors are covered by no name of it.",),
        rules_out=("The map has '' as a default, or every tensor has a mapped device.",),
        check="Which names does the message list, and does the map name a parent of each?",
        fix="Add the missing modules, or '' as a default, or use device_map='auto'.",
        avoid=("copying a map from another version of the model: module names move.",),
    ),
    Cause(
        id="offload-folder-missing",
        title="The map needs disk, and no folder was given",
        explanation=(
            "Weights that go to disk are read from the checkpoint itself when it is safetensors. A .bin checkpoint, "
            "weights that are converted while loading, or a model that is already in memory have to be written "
            "somewhere first, and nobody said where."
        ),
        proves=("The refusal asks for offload_folder or offload_dir.",),
        rules_out=("The map holds no disk.",),
        check="Is the checkpoint .bin, and does the map hold 'disk'?",
        fix="Pass offload_folder= (transformers, PEFT) or offload_dir= (accelerate's dispatch_model), or convert the "
        "checkpoint to safetensors.",
        avoid=("a folder in /tmp that a cleaner empties: the weights are read on every forward.",),
    ),
    Cause(
        id="memory-already-taken",
        title="The map spilled because something else held the memory",
        explanation=(
            "'auto' plans with the memory that is free at that moment. Another worker, another user, a notebook that "
            "still holds an earlier model, or a container limit that accelerate does not see makes it smaller than "
            "the card, and layers are offloaded to the CPU or to disk although the model would fit."
        ),
        proves=("The device's total would hold the model, its free memory does not, and others hold the rest.",),
        rules_out=("The model is larger than the whole device.",),
        check="What does nvidia-smi show beside this process, and was a model loaded earlier in this kernel?",
        fix="Free the memory: stop the holder, delete the earlier model and restart the kernel; then load again. "
        "max_memory= says how much may be used.",
        avoid=("shrinking the dtype until it fits: the holder will be there again tomorrow.",),
        shown_on="simulated",
    ),
    Cause(
        id="out-of-memory",
        title="A device or the host ran out of memory",
        explanation=(
            "An allocation was larger than what was left. While loading, the weights do not fit; while running, "
            "activations and the key-value cache came on top. A host that runs out is often killed without a word "
            "(exit 137, SIGKILL)."
        ),
        proves=("The allocator says so, or the process was killed by the system.",),
        rules_out=("Nothing was being allocated.",),
        check="Did it happen while loading or while running, and on which device?",
        fix="Load with device_map='auto' and a max_memory that leaves room for activations, quantize, or shorten the "
        "inputs.",
        avoid=("emptying the cache in a loop: it gives back only what nobody uses.",),
        shown_on="simulated",
    ),
    Cause(
        id="offload-notice",
        title="The ordinary notice about offloading was taken for an error",
        explanation=(
            "'Some parameters are on the meta device because they were offloaded' is what accelerate says after every "
            "load that offloads. It lists what the map names, not what is wrong. A healthy offloaded model answers "
            "right, more slowly."
        ),
        proves=("Every meta tensor has a live hook with its data, and the text holds no exception.",),
        rules_out=("A meta tensor has no data behind it.",),
        check="Is there an exception after the notice?",
        fix="Nothing has to be done. For speed, free memory on the GPU so that less is offloaded.",
        avoid=("any(p.is_meta for p in model.parameters()) as a guard: it refuses healthy models.",),
        severity="info",
    ),
    Cause(
        id="environment-mismatch",
        title="Versions or builds do not fit together",
        explanation=(
            "Model code, transformers, accelerate, PyTorch and the driver are released apart. Code written for "
            "transformers 4 misses what version 5 expects of a model class (post_init(), a mapping of tied weights); "
            "a CPU build of PyTorch meets a request for CUDA; hf_device_map is looked for where recent versions set "
            "none."
        ),
        proves=("The error names an attribute, argument or build of another version.",),
        rules_out=("The same code runs with this environment's own example.",),
        check="Which versions does `python -m diag env` or pip list show, and which does the model card ask for?",
        fix="Install the versions that the model card names, or update the model's code as the message says.",
        avoid=("upgrading a single one of the libraries: they are tested as a set.",),
    ),
    Cause(
        id="unknown",
        title="None of the known causes explains this",
        explanation=(
            "The text or the state was read and fits no entry of the catalogue. That is said plainly instead of "
            "guessing; what was looked at and ruled out is listed, so that it can be sent on."
        ),
        proves=("No rule gave evidence for any cause.",),
        rules_out=("Any other entry is supported.",),
        check="Give more: the whole traceback, the lines printed while loading, or the model itself.",
        fix="Run diag.diagnose(model, error=exc) where it fails; send the findings and the versions with a report.",
        avoid=("trying fixes for other causes one after the other.",),
        shown_on="a scenario for an unknown cause would have to be known",
    ),
)
