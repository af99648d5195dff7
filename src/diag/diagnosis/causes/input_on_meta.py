"""input-on-meta: the inputs were sent to the model's device, which is meta."""

import re
from dataclasses import replace

from diag.diagnosis.cause import COPY, HEADLINE, Cause, Fixes, Found, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, Handling, Trace
from diag.diagnosis.situation import Situation, in_place
from diag.values.finding import Finding, Fix

CAUSE = Cause(
    id="input-on-meta",
    rank=250,
    looks_at=("inputs_on_meta",),
    title="The inputs were sent to the model's device, which is meta",
    explanation="model.device, and next(model.parameters()).device, are the device of the first parameter. When the "
    "embedding is offloaded that is 'meta', so inputs.to(model.device) throws the numbers of the inputs away. The "
    "error then comes from somewhere else: the hook that moves inputs, or generate().",
    proves=("An input is on meta, and the weights are healthy.", "model.device is meta and hooks are live."),
    rules_out=("The inputs are on a real device.",),
    check="Does the code say inputs.to(model.device), or use next(model.parameters()).device?",
    fix="inputs.to(diag.input_device(model)): the device where the model's first hook runs. Leaving the inputs on the "
    "CPU works too, because the hooks move them.",
    avoid=("changing the device map until the embedding is on a GPU: it hides the line that is wrong.",),
    seen_as=(COPY, HEADLINE),
    texts=texts_of(r"""
        inputs were sent to the device of the model's first parameter
            3: \.to\((?:self\.)?(?:\w+\.)*(?:model|encoder|decoder|unet|transformer|vae)\.device\)
               |next\([\w.]*parameters\(\)\)\.device
        near meta: inputs were sent to the model's device
            4: compel|send_to_device|lpw_stable|\.to\(model\.device\)
    """),
    cases=cases_of("""
        T43 token ids sent to the text encoder's device: damian0815/compel#23 damian0815/compel#31 damian0815/compel#49
            damian0815/compel#57
        T74 inputs sent to model.device: damian0815/compel#31 unslothai/notebooks#289 huggingface/peft#352
    """),
    needs="offloaded",
    enough=10,
    is_ambiguous=True,
)


_TO_MODEL_DEVICE = re.compile(
    r"\.to\(\s*(?:device=)?(?:self\.)?(?:\w+\.)*(?:device|parameters\(\)\)\.device)\s*[,)]|to_device\("
)
_INPUTS = re.compile(r"ids|inputs|tokens|mask|pixel|embeds")
_MADE_BY_LIBRARY = "made-by-library"


def from_state(e: Evidence) -> Found:
    if e.inputs_on_meta:
        yield CAUSE.finding("shown", e.inputs_on_meta, because=("The inputs are on meta: their numbers are gone.",))


def from_error(e: Evidence) -> Found:
    if e.site and e.handling is Handling.INPUT_ON_META:
        because = ("In the call these inputs are on meta, and every weight has its data.",)
        yield CAUSE.finding("shown", e.site.inputs_on_meta, module=e.site.where, silent=False, because=because)
    if e.site and e.handling is Handling.INPUT_MADE_ON_META:
        because = ("The caller's inputs are real: generate() made ids of its own on model.device, which is meta here.",)
        avoid = ("inputs.to(...): the inputs are where they should be.",)
        found = CAUSE.finding("shown", module=e.site.where, silent=False, because=because, avoid=avoid)
        yield replace(found, situation=_MADE_BY_LIBRARY)


def from_text(trace: Trace) -> Points:
    said = "a meta tensor was to be copied to a real device"
    if trace.copies_meta:
        if trace.passes("accelerate/utils/operations.py") or trace.calls("send_to_device"):
            yield Point(8, "an input, not a weight, was on meta when accelerate's hook moved the inputs")
        if _TO_MODEL_DEVICE.search(trace.code) and _INPUTS.search(trace.code):
            yield Point(7, f"inputs were sent to the model's device: {trace.code}")
        if not trace.says("to_empty()insteadof") and not trace.moves_something:
            yield Point(2, said)
    if trace.value_asked:
        asked = "the value of a meta tensor was asked for"
        if trace.passes("generation/"):
            yield Point(6, f"{asked} in generate(), which reads the inputs")
        yield Point(2, asked)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    if finding.situation == _MADE_BY_LIBRARY:
        because = (
            "Keep the model's first parameters off the CPU's and the disk's part of the map, so that model.device is "
            "real (device_map='auto' with more memory does), or bring the weights in: diag.materialise(model). Moving "
            "the inputs changes nothing."
        )
        return (*situation.bring_in(), Fix("edit", situation=finding.situation, because=because))
    if not situation.has_model:
        return ()
    because = "the model is healthy: send the inputs to the device where it starts."
    code = "inputs = inputs.to(diag.input_device(model))"
    return (in_place("use-input-device", because, code, avoid="model.device is meta here."),)
