"""moved-after-dispatch: A dispatched model was moved."""

from collections import Counter

from diag.diagnosis.cause import COPY, Cause, Fixes, Found, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, Handling, Trace, names_of
from diag.diagnosis.situation import Situation, in_place
from diag.values.finding import Finding

CAUSE = Cause(
    id="moved-after-dispatch",
    rank=20,
    title="A dispatched model was moved",
    explanation="After a load with a device map every module has its place, and hooks move the data. .to(), .cuda(), "
    ".cpu() or a pipeline's device= then fight the hooks. accelerate guards .to() and .cuda() on the whole model; "
    ".cpu() and any submodule reach the placeholders and raise 'Cannot copy out of meta tensor'. The model itself is "
    "unharmed.",
    proves=("The failing call is .to(), .cuda() or .cpu() on a model with live offload hooks.",),
    rules_out=("No hook serves the meta tensors: then there is no data, and moving is not the problem.",),
    check="Does the traceback end in .to(), .cuda(), .cpu(), or in a pipeline that was given device=?",
    fix="Remove the call. To have the model on one device, load it there (device_map='single'), or bring the data in "
    "first: diag.materialise(model, device=...).",
    avoid=(
        "to_empty(), although PyTorch's message proposes it: it throws the weights away.",
        "reloading because 'the model is broken': after the failed call the model still works.",
    ),
    seen_as=(
        "You can't move a model that has some modules offloaded to cpu or disk.",
        COPY,
        "The model has been loaded with `accelerate` and therefore cannot be moved to a specific device.…",
        "`.to` is not supported for `…-bit` bitsandbytes models.…",
    ),
    texts=texts_of(r"""
        accelerate's guard on .to() and .cuda() of a dispatched model
            10: you can't move a model that has some modules offloaded to cpu or disk
        accelerate warns that a dispatched model was moved
            8: you shouldn't move a model (?:that is|when it is) dispatched
        a pipeline was given device= together with a dispatched model
            10: has been loaded with `?accelerate`? and therefore cannot be moved to a specific device
        a pipeline took 'disk' from the device map as its device
            10: device type at start of device string: disk
        a diffusers pipeline with offload hooks was moved
            10: it seems like you have activated (?:sequential model offloading|a device mapping strategy)
        a dispatched model was moved
            9: pipelines? (?:loaded|with) .*cannot be moved|cannot (?:be )?mov\w+ .*(?:dispatched|offloaded) model
        a bitsandbytes model was moved after loading
            10: `\.(?:to|cuda)` is not supported for `?(?:4-bit|8-bit)
                |calling `?cuda\(\)`? is not supported for `?(?:4-bit|8-bit)
        near meta: a model was moved
            4: enable_model_cpu_offload.*\.to\(|(?:model|pipe|pipeline|unet|transformer|vae|encoder|decoder)\.cpu\(\)
    """),
    cases=cases_of("""
        T01 `.to` refused for a 4-bit or 8-bit model: bitsandbytes-foundation/bitsandbytes#547
            huggingface/transformers#38717
        T48 .to() on a dispatched root module: 01-ai/Yi#302 Kosinkadink/ComfyUI-AnimateDiff-Evolved#225
            mlfoundations/rtfm#19
        T49 .cpu() or submodule.to() on placeholders: huggingface/accelerate#1613 huggingface/accelerate#2840
            huggingface/accelerate#3866
        T50 pipeline device= with a dispatched model: mlflow/mlflow#13439 mlflow/mlflow#23703
            huggingface/transformers#25207
        T51 a pipeline takes 'disk' as its device
        T52 pipe.to() with hooked components: huggingface/diffusers#9953 huggingface/diffusers#7448
            huggingface/diffusers#10914
    """),
    needs="offloaded",
    enough=10,
    is_act=True,
    follows_loss=True,
    puts_elsewhere=True,
    is_vague=True,
    is_ambiguous=True,
)


def from_state(e: Evidence) -> Found:
    """Tensors that are not where map and hook run them, and that no hook will fetch.

    Tied tensors are left out: a tie over two devices puts one name elsewhere by itself. So are modules that are new.
    """
    strays = e.facts.strays if e.facts else ()
    members = Counter(row.tied_group for row in e.rows)
    away = [
        row
        for row in e.rows
        if row.backing == "resident"
        and row.execution_device
        and row.device != row.execution_device == row.mapped_device
        and row.kind != "quant_state"
        and members[row.tied_group] == 1
        and row.name not in e.new_names
        and row.module not in strays
    ]
    if any(row.kind == "parameter" for row in away):
        here = " and ".join(sorted({row.device for row in away}))
        there = " and ".join(sorted({row.execution_device for row in away}))
        because = (
            f"{len(away)} tensors are on {here}. Map and hooks run them on {there}, and only move their inputs there."
        )
        yield CAUSE.finding("shown", names_of(away), because=(because,))


def from_error(e: Evidence) -> Found:
    if e.site and e.handling is Handling.MOVED:
        because = "The weights are offloaded and healthy; the failing call moves a module."
        yield CAUSE.finding("shown", e.site.tensors, module=e.site.where, because=(because,))


def from_text(trace: Trace) -> Points:
    if not trace.copies_meta:
        return
    suffix = trace.says("to_empty()insteadof")
    if trace.calls("cpu", "xpu", "npu") and not suffix:
        yield Point(4, ".cpu() and its like are not guarded by accelerate, so they reach the placeholders")
    if suffix or trace.moves_something:
        points = (6 if trace.dispatched else 4) - (2 if not suffix and trace.moved_module is None else 0)
        yield Point(points, "a module was moved" + (" after a load with a map" if trace.dispatched else ""))
    else:
        yield Point(3 + trace.dispatched, "a meta tensor was to be copied to a real device")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    names = finding.tensors
    if not (names and situation.is_whole_model and situation.are_here(names)):
        return situation.bring_in()
    moved = "moves these tensors back to the devices where their hooks run them."
    whole = "takes the hooks off and puts the whole model on one device, all or nothing."
    back = in_place("put-back", moved, nbytes=situation.nbytes_of(names))
    return (back, in_place("materialise", whole, "diag.materialise(model)"))
