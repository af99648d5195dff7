"""adapter-on-offloaded-base: A PEFT adapter was put on, or merged into, an offloaded base."""

from diag.diagnosis.cause import COPY, NO_FOLDER, SILENT, Cause, Fixes, Found, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, Lack, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="adapter-on-offloaded-base",
    rank=70,
    looks_at=("lost", "unserved", "rewritten"),
    title="A PEFT adapter was put on, or merged into, an offloaded base",
    versions="peft 0.21.2, accelerate 1.15.0",
    explanation="device_map='auto' offloaded part of the base. Loading an adapter makes PEFT dispatch the model again, "
    "with other module names and with a map of its own: it asks for an offload folder, looks for weights under names "
    "that the disk index does not have, or copies placeholders. With a base on disk it also writes the base's files "
    "anew, under PEFT's names: over the originals where the checkpoint is a local folder given by a relative path, "
    "below the current directory where the path is absolute. The model is healthy until then; diag.load(adapter=…) and "
    "diag.fix refuse this combination.",
    proves=(
        "The model is a PeftModel, and its base has offload hooks or hf_device_map names cpu or disk.",
        "The base's files hold tensors whose names begin with base_model.model.",
    ),
    rules_out=("Nothing of the base is offloaded.",),
    check="Did loading the base say that parameters were offloaded?",
    fix="Load the base so that nothing is offloaded (device_map='single', a smaller dtype, quantized), then the "
    "adapter; or merge on the CPU (device_map='cpu') and save the merged model. Files that PEFT has written over have "
    "to be fetched again.",
    avoid=(
        (
            "PeftModel.from_pretrained on a base that is offloaded to disk: peft 0.21.2 can overwrite its "
            "checkpoint. Work on a copy."
        ),
        "merge_and_unload() on placeholders.",
    ),
    seen_as=(COPY, NO_FOLDER),
    shows_as=(SILENT,),
    texts=texts_of(r"""
        PEFT would rewrite the base's files
            10: an adapter on a base that is offloaded
        near meta: an adapter is part of it
            4: peftmodel|get_peft_model|merge_and_unload|load_adapter|lora|adapter_model
    """),
    cases=cases_of("""
        T29 PeftModel on an offloaded base: tloen/alpaca-lora#368 tloen/alpaca-lora#536 togethercomputer/OpenChatKit#87
            oobabooga/textgen#4965
        T31 PEFT dispatches again without an offload folder: huggingface/peft#774 huggingface/peft#225
            huggingface/accelerate#1281 hiyouga/LlamaFactory#2802
        T34 PEFT rewrites the base checkpoint: huggingface/peft#1431
    """),
    needs="offloaded",
    enough=10,
    is_act=True,
)


def from_state(e: Evidence) -> Found:
    if lost := e.lost.get(Lack.ADAPTER_ON_OFFLOADED):
        yield CAUSE.lacking(lost, "PEFT's layers are in the model, and the map offloads these blocks of the base.")
    if unserved := e.unserved.get(Lack.ADAPTER_ON_OFFLOADED):
        yield CAUSE.lacking(unserved)
    if e.facts and e.facts.rewritten:
        because = (
            f"The base's files hold {len(e.facts.rewritten)} tensors only under PEFT's names: they were written over, "
            "and a load of these files fills those weights at random."
        )
        yield CAUSE.finding("shown", e.facts.rewritten, silent=True, because=(because,))


def from_text(trace: Trace) -> Points:
    in_peft = trace.passes("/peft/")
    if trace.meets_meta and (in_peft or "lora_" in trace.code):
        yield Point(8, f"{trace.order}, inside an adapter's forward")
    if trace.copies_meta and in_peft:
        yield Point(8, "a meta tensor was to be copied to a real device inside PEFT")
    if trace.needed_value and in_peft:
        yield Point(9, f"{trace.no_value_for}, while PEFT dispatched the model again")
    if trace.missing_key and ("base_model." in trace.missing_key or in_peft):
        yield Point(11, f"PEFT looked for the offloaded tensor {trace.missing_key} under its own name")
    if in_peft and trace.calls("dispatch_model", "merge_and_unload", "load_adapter", "_update_offload"):
        yield Point(4, "PEFT handled a dispatched base model")
    no_folder = trace.says("weneedan`offload_dir`", "offload_dir`todispatch")
    if no_folder and (in_peft or trace.says("base_model.")):
        yield Point(12, "the modules to offload are PEFT's: it dispatches the base again")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_with_map("cpu", "a base that is not offloaded can take an adapter")
