"""Catalogue entries: what is done with a model: adapters, training, threads, saving, compiling. Prose, nothing else."""

from __future__ import annotations

from diag.diagnosis.cause import Cause

USE_CAUSES = (
    Cause(
        id="adapter-on-offloaded-base",
        title="A PEFT adapter was put on, or merged into, an offloaded base",
        explanation=(
            "device_map='auto' offloaded part of the base. Loading an adapter makes PEFT dispatch the model again, "
            "with other module names and with a map of its own: it asks for an offload folder, looks for weights under "
            "names that the disk index does not have, or copies placeholders. With a base on disk it also writes the "
            "base's files anew, under PEFT's names: over the originals where the checkpoint is a local folder given by "
            "a relative path, below the current directory where the path is absolute. The model is healthy until "
            "then; diag.load(adapter=…) and diag.fix refuse this combination."
        ),
        proves=(
            "The model is a PeftModel, and its base has offload hooks or hf_device_map names cpu or disk.",
            "The base's files hold tensors whose names begin with base_model.model.",
        ),
        rules_out=("Nothing of the base is offloaded.",),
        check="Did loading the base say that parameters were offloaded?",
        fix="Load the base so that nothing is offloaded (device_map='single', a smaller dtype, quantized), then the "
        "adapter; or merge on the CPU (device_map='cpu') and save the merged model. Files that PEFT has written over "
        "have to be fetched again.",
        avoid=(
            "PeftModel.from_pretrained on a base that is offloaded to disk: peft 0.21.2 can overwrite its checkpoint. "
            "Work on a copy.",
            "merge_and_unload() on placeholders.",
        ),
        versions="peft 0.21.2, accelerate 1.15.0",
    ),
    Cause(
        id="training-offloaded-layers",
        title="Offloaded layers are not trained",
        explanation=(
            "Gradients go to the temporary copy that the hook brings in; the registered parameter is a placeholder, "
            "its grad stays None, and the optimizer skips it. Loss falls, because the other layers learn, and nothing "
            "warns. For quantized models accelerate refuses in words."
        ),
        proves=("Trainable parameters are on meta, or the optimizer holds meta parameters.",),
        rules_out=("Every trainable parameter is real: an adapter on layers that are not offloaded is fine.",),
        check="Is any trainable parameter on meta after loading?",
        fix="Train without offload: a smaller or quantized base with an adapter on one device, or FSDP or ZeRO.",
        avoid=("believing a falling loss.",),
        severity="silent",
    ),
    Cause(
        id="distributed-loader-conflict",
        title="DeepSpeed, FSDP or a distributed launch together with a device map or a low-memory load",
        explanation=(
            "ZeRO-3 and FSDP split the weights over processes themselves; a device map wants to place them too. "
            "Ranks other than 0 build on meta and wait for their shards. Where both are active, or the order of "
            "TrainingArguments and from_pretrained is wrong, ranks are left with meta or empty tensors."
        ),
        proves=("The loader refuses the combination, or a ZeRO-3 or FSDP setting is active while a map is given.",),
        rules_out=("One process, no DeepSpeed or FSDP setting.",),
        check="Is the run started with torchrun, accelerate launch or deepspeed, and does the load pass device_map?",
        fix="Drop device_map (and low_cpu_mem_usage) under ZeRO-3 or FSDP; for data parallel runs give each rank its "
        "own device: device_map={'': local_rank}.",
        avoid=("device_map='auto' in a distributed launch: every rank would split the model over all GPUs.",),
        shown_on="needs several processes and DeepSpeed or FSDP",
    ),
    Cause(
        id="concurrent-load",
        title="Two threads loaded models at the same time",
        explanation=(
            "accelerate's init_empty_weights() changes nn.Module for the whole process while it is active, so a model "
            "that another thread builds in the same moment lands on meta as well. A service that loads on first "
            "request meets this when two requests arrive together. It fails now and then, each time elsewhere."
        ),
        proves=(
            "The load ran in a thread while another one was loading.",
            "A single load in the same process is clean.",
        ),
        rules_out=("Only one thread loads.",),
        check="Does it fail only sometimes, and does the traceback run through a thread pool?",
        fix="Load once, before requests are served, under a lock; answer 503 until then.",
        avoid=("retrying the load in each thread: it keeps the windows overlapping.",),
        versions="transformers before 5 and libraries that use init_empty_weights(); transformers 5.23 itself does not",
    ),
    Cause(
        id="concurrent-calls",
        title="Several threads called one offloaded model at once",
        explanation=(
            "The hooks of an offloaded model bring each weight in before a module runs and put the placeholder back "
            "after it, on the module itself. Two calls at the same time share these modules: one takes a weight away "
            "while the other is about to use it. Some calls fail with the headline text, others answer with random "
            "memory, and the next call alone is right again. A web service that answers requests in threads does this "
            "as soon as two requests overlap, which is often just after start-up."
        ),
        proves=(
            "Every weight has its data at rest, a hook ran right before the failing forward, and still it met meta.",
            "The same calls one after the other all answer right.",
        ),
        rules_out=("One thread calls the model, or nothing of it is offloaded.",),
        check="Does it fail only when requests overlap, and does a single request afterwards answer right?",
        fix="One call at a time: a lock around the call or one worker queue; or load without offload "
        "(device_map='single'), where calls do not disturb each other.",
        avoid=("retrying: an overlapping call may also return a wrong answer without an error.",),
    ),
    Cause(
        id="saving-offloaded-model",
        title="A state dict that holds placeholders was saved",
        explanation=(
            "state_dict() of an offloaded model holds meta tensors. save_pretrained() of a dispatched model fetches "
            "the data; save_file(), torch.save() and a model under cpu_offload() do not, and fail, or write a file "
            "without weights."
        ),
        proves=("The failing call is a save, and tensors of the model are on meta.",),
        rules_out=("The state dict holds no meta tensor.",),
        check="Which call saves: save_pretrained of a dispatched model, or something else?",
        fix="diag.materialise(model) first, or save_pretrained() of the model that was loaded with a map.",
        avoid=("torch.save(model.state_dict()) with placeholders: it may write a file that holds nothing.",),
    ),
    Cause(
        id="compiled-hooks",
        title="torch.compile met accelerate's hooks",
        explanation=(
            "Hooks exchange parameters around every forward, which a compiler can't follow. By default it leaves them "
            "out and works with breaks; with fullgraph=True, export, or a map over several GPUs it stops."
        ),
        proves=("Hooks are on the model, and the exception comes from torch._dynamo.",),
        rules_out=("The model has no hooks.",),
        check="Does the same call work without torch.compile?",
        fix="Do not compile a dispatched model with fullgraph=True; compile one that was loaded without a map.",
        avoid=("suppress_errors: it hides the breaks and compiles nothing.",),
    ),
)
