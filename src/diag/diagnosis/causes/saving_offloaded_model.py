"""saving-offloaded-model: A state dict that holds placeholders was saved."""

import re

from diag.diagnosis.cause import COPY, Cause, Fixes, Found, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, Handling, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="saving-offloaded-model",
    rank=30,
    title="A state dict that holds placeholders was saved",
    explanation="state_dict() of an offloaded model holds meta tensors. save_pretrained() of a dispatched model "
    "fetches the data; save_file(), torch.save() and a model under cpu_offload() do not, and fail, or write a file "
    "without weights.",
    proves=("The failing call is a save, and tensors of the model are on meta.",),
    rules_out=("The state dict holds no meta tensor.",),
    check="Which call saves: save_pretrained of a dispatched model, or something else?",
    fix="diag.materialise(model) first, or save_pretrained() of the model that was loaded with a map.",
    avoid=("torch.save(model.state_dict()) with placeholders: it may write a file that holds nothing.",),
    seen_as=(COPY,),
    texts=texts_of(r"""
        accelerate's guard on saving placeholders
            10: you can't save the model since some parameters are on the meta device
        a model was pickled with accelerate's hooks on it, which are local functions
            10: local object '?add_hook_to_module\.
        a model with placeholders was saved
            9: (?:can't|cannot|not) (?:be )?sav\w+ .*(?:offloaded|meta)|offloaded .*(?:can't|cannot) be saved
        near meta: a model is being saved
            4: save_pretrained|save_file|safetensors?save|torch\.save|state_dict\(\).*sav
    """),
    cases=cases_of("""
        T80 safetensors meets placeholders: huggingface/accelerate#2128 huggingface/accelerate#2129
            huggingface/accelerate#2132
        T81 save_model refuses parameters on meta: huggingface/accelerate#2132 huggingface/accelerate#2156
    """),
    needs="offloaded",
    enough=10,
    is_act=True,
    follows_loss=True,
)

_STATE_DICT = re.compile(r"state_dict\b|\bfor \w+, \w+ in \w+\.items\(\)")


def from_error(e: Evidence) -> Found:
    if e.site is None:
        return
    handed = e.site.placeholders
    if e.handling is Handling.SAVED_SHARED:
        both = (
            "The error is that tied names share memory, which save_file() does not take.",
            "The state dict also holds placeholders of offloaded weights.",
        )
        yield CAUSE.finding("likely", handed, silent=False, because=both)
    elif e.handling is Handling.GIVEN_TO_ANOTHER:
        because = "load_state_dict was given placeholders; this model's own tensors have their data."
        check = (
            "Where does the state dict come from? If from an offloaded model, call diag.materialise() on that one "
            "first; a model that was built on meta has nothing to give."
        )
        where = e.site.root_class
        yield CAUSE.finding("likely", handed, module=where, silent=False, because=(because,), check=(check,))
    elif e.handling is Handling.SAVED:
        because = "The weights are offloaded and healthy; placeholders were saved."
        yield CAUSE.finding("shown", handed or e.site.tensors, module=e.site.where, silent=False, because=(because,))
    elif e.handling is Handling.STATE_DICT_READ:
        because = "The weights are offloaded and healthy; a state dict was read."
        yield CAUSE.finding("shown", handed, module=e.site.where, silent=False, because=(because,))


def from_text(trace: Trace) -> Points:
    if trace.copying_parameter:
        given = "load_state_dict was given meta tensors as the source"
        yield Point(6, f"{given}, as state_dict() of an offloaded model holds")
    if trace.copies_meta:
        saved = trace.calls("save_pretrained", "save_file", "save_model")
        if saved or trace.passes("safetensors/torch.py", "torch/serialization.py"):
            yield Point(10, "a state dict with placeholders was being saved")
    lines = (trace.code if trace.site else trace.report.text).splitlines()
    read = next((line.strip() for line in lines if _STATE_DICT.search(line)), "")
    if read and (trace.copies_meta or trace.value_asked):
        yield Point(8, f"the values of a state dict were asked for: {read}")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.bring_in() if situation.is_hooked else ()
