"""Catalogue entries: tensors that are on meta, and values that were never loaded. Prose, nothing else."""

from __future__ import annotations

from diag.diagnosis.cause import Cause

_NO_TO_EMPTY = "to_empty(): it silences the error and leaves uninitialised memory; the model then answers nonsense."

META_CAUSES = (
    Cause(
        id="never-materialised",
        title="The model was built without data, and nothing ever filled it",
        explanation=(
            "A tensor on the device 'meta' has a shape and a dtype, but no numbers. Libraries build a model that way "
            "first, because it is fast and takes no memory, and fill it with the checkpoint afterwards. Here the "
            "second half did not happen: the load ran inside init_empty_weights() or a meta device context, with "
            "device_map='meta', or load_state_dict() was called without assign=True, which reports success and "
            "changes nothing on meta parameters. Some operations raise, others return a meta tensor or random memory."
        ),
        proves=(
            "Parameters are on meta, and no accelerate hook with a store of weights serves them.",
            "The model has no hf_device_map although nothing of it is real.",
        ),
        rules_out=("Every meta tensor has a live hook whose store holds it: then it is offloaded, which is healthy.",),
        check="Was from_pretrained called inside init_empty_weights() or torch.device('meta'), or was load_state_dict "
        "called without assign=True?",
        fix="Load again outside of any meta context, with device_map='auto' or 'none'. With load_state_dict, pass "
        "assign=True and recompute the buffers that are not saved.",
        avoid=(
            _NO_TO_EMPTY,
            ".to(device): there are no numbers to move, so it raises 'Cannot copy out of meta tensor'.",
        ),
        versions="transformers 5 refuses torch.device('meta') around from_pretrained, but not init_empty_weights().",
    ),
    Cause(
        id="hooks-removed",
        title="Offloaded weights were stranded when their hooks were taken off",
        explanation=(
            "accelerate keeps offloaded weights outside the module, on the CPU or on disk, and leaves placeholders on "
            "meta. A hook on each module brings the numbers in just before its forward and takes them out after it. "
            "remove_hook_from_module() or remove_hook_from_submodules() takes the hooks off and, with them, the only "
            "way to the numbers: weights that were never real in this process stay on meta for good."
        ),
        proves=(
            "hf_device_map sends modules to cpu or disk, their tensors are on meta, and no hook serves them.",
            "The root's .to() is no longer accelerate's guard although the map is set.",
        ),
        rules_out=("Hooks with offload=True are still on the modules, or no map ever asked for offload.",),
        check="Does the code call remove_hook_from_module(), remove_hook_from_submodules() or remove_all_hooks()?",
        fix="Load the model again. Where the hooks are still there, diag.materialise(model) copies the numbers in "
        "first and takes the hooks off afterwards.",
        avoid=(_NO_TO_EMPTY, "dispatching the same model again: accelerate has no numbers to hook either."),
    ),
    Cause(
        id="forward-bypasses-hook",
        title="The hook is there, but the module's forward no longer goes through it",
        explanation=(
            "accelerate puts its hook in place of module.forward. Fused kernels, patches and some acceleration "
            "libraries assign another forward afterwards, or call the class's forward directly. The hook object is "
            "still on the module, so everything looks right, but nobody brings the weights in. A norm or a biased "
            "Linear raises; a Linear without bias computes with random memory and raises nothing."
        ),
        proves=("A hook whose store holds the weight is on the module, and module.forward never reaches it.",),
        rules_out=("The forward is a wrapper (logging, timing) that still calls accelerate's.",),
        check="Does the code or a library assign module.forward, or call type(module).forward(...), after loading?",
        fix="Take the other forward off, or patch before loading; to keep the patch, set it as module._old_forward, "
        "which accelerate's wrapper calls.",
        avoid=("moving the input: the weight is what is missing.", _NO_TO_EMPTY),
    ),
    Cause(
        id="weight-used-outside-hook",
        title="A healthy offloaded weight was read from outside its module's forward",
        explanation=(
            "While a module rests, its offloaded weight is a placeholder on meta; the numbers are there only during "
            "its own forward. Code that reads module.weight directly meets the placeholder: a parent that indexes an "
            "embedding's weight, a container's own parameter, resizing the embedding, or a library that walks "
            "named_parameters() and looks at values."
        ),
        proves=("The model's placement is healthy, and the failing line is not in the forward of the weight's owner.",),
        rules_out=("A plain model(ids) fails too, inside the owner's forward: then the hook or the data is gone.",),
        check="Does a plain model(**inputs) work, and only the other call fail?",
        fix="Call the module instead of reading its weight, or read inside "
        "accelerate.utils.align_module_device(module), or load so "
        "that this module is not offloaded; diag.materialise(model) brings everything in.",
        avoid=(".to(device) on the placeholder: there is nothing to copy.", _NO_TO_EMPTY),
    ),
    Cause(
        id="input-on-meta",
        title="The inputs were sent to the model's device, which is meta",
        explanation=(
            "model.device, and next(model.parameters()).device, are the device of the first parameter. When the "
            "embedding is offloaded that is 'meta', so inputs.to(model.device) throws the numbers of the inputs away. "
            "The error then comes from somewhere else: the hook that moves inputs, or generate()."
        ),
        proves=("An input is on meta, and the weights are healthy.", "model.device is meta and hooks are live."),
        rules_out=("The inputs are on a real device.",),
        check="Does the code say inputs.to(model.device), or use next(model.parameters()).device?",
        fix="inputs.to(diag.input_device(model)): the device where the model's first hook runs. Leaving the inputs "
        "on the CPU works too, because the hooks move them.",
        avoid=("changing the device map until the embedding is on a GPU: it hides the line that is wrong.",),
    ),
    Cause(
        id="missing-weight-data",
        title="The weight is offloaded, but its data is not where the hook looks",
        explanation=(
            "A hook reads a disk-offloaded weight from a file on every forward: for safetensors that is the original "
            "checkpoint. If the checkpoint has no such tensor (a new head, renamed keys), loading succeeds and the "
            "first forward fails with a KeyError; if the file was removed, with FileNotFoundError. Attaching or "
            "removing a hook says 'weight is on the meta device, we need a value'."
        ),
        proves=(
            "A hook with offload=True serves the tensor, and its store has no such key, or holds only a placeholder.",
            "The file that the store names does not exist.",
        ),
        rules_out=("The store has the key and the file is there.",),
        check="Did loading report the tensor as missing, and are the checkpoint's files still in place?",
        fix="Repair the checkpoint, or keep newly initialised layers off disk in the map; keep the files where they "
        "are for as long as the model lives.",
        avoid=("ignoring the 'newly initialized' line: on a real device that is random, on disk it is a KeyError.",),
    ),
    Cause(
        id="uninitialised-values",
        title="Nothing is on meta, but some values were never loaded",
        explanation=(
            "The model looks complete and every device is real, yet some numbers are whatever was in memory. That is "
            "what to_empty() leaves, and what transformers 5 leaves in buffers that are not saved (persistent=False) "
            "when the model's own code does not compute them again; the inverse frequencies of rotary embeddings are "
            "the usual victim. Tensors that the checkpoint lacks are newly initialised at random."
        ),
        proves=(
            "A buffer that is not saved differs from the one that the module computes when it is built.",
            "Values differ from the checkpoint's files (diag.verify_weights), or are not finite.",
        ),
        rules_out=("The model equals its twin on the same inputs.",),
        check="Was to_empty() called, did loading report newly initialised tensors, or does the model have buffers "
        "that are not saved?",
        fix="Load again without to_empty(); buffers that are not saved are computed anew by diag.fix where the "
        "module's constructor can do it.",
        avoid=(_NO_TO_EMPTY, "judging by 'no exception': a model with one random layer still answers fluently."),
        severity="silent",
    ),
    Cause(
        id="tied-weights-split",
        title="Tied weights were separated",
        explanation=(
            "In many models the output head is the embedding: one tensor under two names. A map that sends the two "
            "names to different places, or code that replaces one of them, breaks the tie. Then the head is missing, "
            "random, or out of step with the embedding."
        ),
        proves=(
            "The config ties embedding and head, and the two are different tensors on different devices or with "
            "different values.",
        ),
        rules_out=("Both names are the same tensor, or both are offloaded to stores that hold the same values.",),
        check="Does config.tie_word_embeddings say true, and does the map give embedding and head different devices?",
        fix="Give both names the same device in the map, or call model.tie_weights() before dispatching.",
        avoid=("untying by cloning the head: it doubles the memory and trains apart.",),
    ),
    Cause(
        id="submodule-replaced",
        title="A module was swapped after loading and stands outside the device map",
        explanation=(
            "The map and the hooks belong to the modules that were there when the model was dispatched. A module that "
            "is put in later (another MLP, an adapter, a quantized layer) has no hook: its inputs are not moved, its "
            "weights are not brought in, and its values are not the checkpoint's."
        ),
        proves=(
            "A module has no hook while all its neighbours under the same map have one.",
            "Its class or its tensors are not those of the model's own definition.",
        ),
        rules_out=("The module's parent carries a hook that places submodules.",),
        check="Does the code assign into the model (model.x.mlp = ..., setattr) after from_pretrained?",
        fix="Replace modules before loading, or dispatch the model again after the replacement with its real weights.",
        avoid=("moving the new module by hand: its values are still not the checkpoint's.",),
        severity="silent",
    ),
    Cause(
        id="constructor-on-meta",
        title="The model's own code needs numbers while it is being built without any",
        explanation=(
            "transformers 5 always builds a model on meta before it loads the weights. A constructor that computes "
            "Python numbers from tensors (torch.linspace(...)[i].item(), .tolist(), .numpy(), if tensor:) fails then, "
            "before any weight was read. Older custom and remote code does this often."
        ),
        proves=("The exception comes from a constructor under from_pretrained; no model exists yet.",),
        rules_out=("The model was returned by from_pretrained.",),
        check="Is the model's own __init__ in the traceback, below from_pretrained?",
        fix="Compute such numbers with plain Python or NumPy in the constructor, or use the transformers 4 release "
        "that the code was written for.",
        avoid=("low_cpu_mem_usage=False: transformers 5 builds on meta whatever it says.",),
        versions="always under transformers 5; with device_map or low_cpu_mem_usage under 4.50 and later",
    ),
)
