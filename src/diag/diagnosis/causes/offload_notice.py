"""offload-notice: the ordinary notice about offloading was taken for an error."""

from diag.diagnosis.cause import Cause, cases_of, texts_of

CAUSE = Cause(
    id="offload-notice",
    rank=300,
    title="The ordinary notice about offloading was taken for an error",
    severity="info",
    explanation="'Some parameters are on the meta device because they were offloaded' is what accelerate says after "
    "every load that offloads. It lists what the map names, not what is wrong. A healthy offloaded model gives the "
    "right answers, only more slowly.",
    proves=("Every meta tensor has a live hook with its data, and the text holds no exception.",),
    rules_out=("A meta tensor has no data behind it.",),
    check="Is there an exception after the notice?",
    fix="Nothing has to be done. For speed, free memory on the GPU so that less is offloaded.",
    avoid=("any(p.is_meta for p in model.parameters()) as a guard: it refuses healthy models.",),
    seen_as=("Some parameters are on the meta device because they were offloaded to the …",),
    texts=texts_of(r"""
        accelerate's ordinary notice about offloading
            9: parameters are on the meta device (?:device )?because they were offloaded
    """),
    cases=cases_of("""
        T83 the offloading notice taken for an error: hiyouga/LlamaFactory#4697 mlinmg/ComfyUI-LaMA-Preprocessor#22
            huggingface/accelerate#2103
    """),
    memory_ran_short=True,
    is_notice=True,
)
