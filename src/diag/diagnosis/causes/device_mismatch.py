"""device-mismatch: two real devices met in one operation."""

from diag.diagnosis.cause import Cause, Fixes, Found, Point, Points, cases_of
from diag.diagnosis.evidence import Evidence, Trace, names_of
from diag.diagnosis.situation import Situation, in_place
from diag.values.finding import Finding

CAUSE = Cause(
    id="device-mismatch",
    rank=290,
    title="Two real devices met in one operation",
    shown_on="simulated",
    explanation="Nothing is on meta: an operation got one tensor on a GPU and another on the CPU or on a second GPU. "
    "Inputs left on the CPU without hooks to move them, a block with a skip connection split over two GPUs, or a part "
    "that a helper parked on the CPU are the usual reasons.",
    proves=("Tensors of one module, or a module and its input, are on different real devices, without a hook.",),
    rules_out=("Hooks move the inputs of every module that is elsewhere.",),
    check="Which two devices does the text name, and is one of them the inputs'?",
    fix="Send the inputs to diag.input_device(model), and let the loader make the map so that no block is split.",
    avoid=("adding .to(device) inside the model's code: the next map breaks it again.",),
    seen_as=("Expected all tensors to be on the same device, but …",),
    cases=cases_of("""
        T36 input ids on the CPU, embedding on a GPU: openlm-research/open_llama#76 smthemex/ComfyUI_YuE#30
            huggingface/transformers#31975
        T38 a block with a skip connection split over devices: huggingface/accelerate#1730 huggingface/accelerate#362
            huggingface/accelerate#2847
        T39 sub-models parked on the CPU by a helper: huggingface/transformers#47169
        T40 quantized layers on a GPU, the rest on the CPU: huggingface/transformers#32420 ModelCloud/GPTQModel#304
    """),
)


def from_error(e: Evidence) -> Found:
    """Tensors or inputs on another device than the rest, unless a tie that was split explains it."""
    meeting = e.meeting
    if meeting is None or meeting.split_ties:
        return
    if meeting.away:
        there = " and ".join(sorted({row.device for row in meeting.away}))
        count = f"{len(meeting.away)} of {meeting.total} tensors are on {there}, the rest on {meeting.home}"
        because = (f"{count}, and no hook carries anything over.",)
        yield CAUSE.finding("shown", names_of(meeting.away), silent=False, because=because)
    elif meeting.inputs:
        there = " and ".join(sorted({device for _, device in meeting.inputs}))
        because = (f"In the call these were on {there}, and every tensor of the model is on {meeting.home}.",)
        names = tuple(name for name, _ in meeting.inputs)
        where = e.site.module if e.site else ""
        yield CAUSE.finding("shown", names, module=where, silent=False, because=because)


def from_text(trace: Trace) -> Points:
    mixed = trace.mixed
    if mixed is not None and not mixed.with_meta:
        pair = f": {mixed.expected} and {mixed.other}" if mixed.expected else ""
        said = f"two real devices met in one operation{pair}; nothing is on meta"
        yield Point(10 if mixed.expected else 7, said)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    reload = situation.reload_with_map("auto", "hooks move the inputs of every module")
    if not situation.is_whole_model or situation.has_align_hooks or "meta" in situation.devices:
        return reload
    if len(situation.devices) == 1:
        because = f"the whole model is on {situation.devices[0]}: send the inputs there."
        return (in_place("use-input-device", because, "inputs = inputs.to(diag.input_device(model))"), *reload)
    because = f"puts the whole model on {situation.input_device}, where it starts."
    return (in_place("together", because, "model.to(diag.input_device(model))"), *reload)
