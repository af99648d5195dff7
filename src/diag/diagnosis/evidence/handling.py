"""What a failing call did with a model whose weights all have their data: its live frames tell. Pure functions."""

from diag.diagnosis.evidence import CallSite, Evidence, Handling
from diag.diagnosis.evidence.trace import Trace


def handling_of(e: Evidence) -> Handling | None:
    """None where the model is not healthy at rest, the error is not about meta, or the frames tell nothing."""
    if e.site is None or e.trace is None or e.orphans:
        return None
    trace, site = e.trace, e.site
    if site.placeholders and "share memory" in trace.report.text:
        return Handling.SAVED_SHARED
    if site.placeholders and "While copying the parameter" in trace.report.text:
        return Handling.GIVEN_TO_ANOTHER
    if not trace.is_about_meta:
        return None
    if site.inputs_on_meta:
        return Handling.INPUT_ON_META
    if not e.offloaded or trace.compiling:
        return None
    return Handling.INPUT_MADE_ON_META if _made_on_meta(e, trace, site) else _use_of_weights(trace, site)


def _made_on_meta(e: Evidence, trace: Trace, site: CallSite) -> bool:
    """generate() was called with real inputs, and what then was on meta is no weight: it made it on model.device."""
    was_input = trace.passes("accelerate/utils/operations.py") or trace.value_asked
    on_meta = e.facts is not None and e.facts.first_device == "meta"
    return was_input and on_meta and not site.tensors and trace.calls("generate")


def _use_of_weights(trace: Trace, site: CallSite) -> Handling | None:
    """What was done with weights that are offloaded and healthy; PEFT's own frames are judged by their text."""
    files = " ".join(frame.file for frame in trace.frames)
    if "/peft/" in files or "lora" in files:
        return None
    saves = trace.calls("save_pretrained", "save_file", "save_model")
    if saves or "safetensors" in files or "serialization" in files:
        return Handling.SAVED
    if site.placeholders or "state_dict" in (trace.site.code if trace.site else ""):
        return Handling.STATE_DICT_READ
    moved_module = trace.moved_module is not None or trace.passes("accelerate/big_modeling.py")
    if trace.copied_from_meta and moved_module:
        return Handling.MOVED
    if site.tensors and not site.own_forward:
        return Handling.READ_OUTSIDE
    if trace.hook_right_above and (site.tensors or (site.module and not site.fed_meta)):
        return Handling.META_AFTER_HOOK
    return Handling.CALLED_PAST_HOOK if site.tensors and trace.calls("forward") else None
