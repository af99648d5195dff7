"""training-offloaded-layers: offloaded layers are not trained."""

from diag.diagnosis.cause import Cause, Fixes, Found, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="training-offloaded-layers",
    rank=80,
    looks_at=("frozen_out",),
    title="Offloaded layers are not trained",
    severity="silent",
    explanation="Gradients go to the temporary copy that the hook brings in; the registered parameter is a "
    "placeholder, its grad stays None, and the optimizer skips it. The loss falls because the other layers learn, and "
    "no warning appears. For quantized models accelerate raises an error.",
    proves=("Trainable parameters are on meta, or the optimizer holds meta parameters.",),
    rules_out=("Every trainable parameter is real: an adapter on layers that are not offloaded is fine.",),
    check="Is any trainable parameter on meta after loading?",
    fix="Train without offload: a smaller or quantized base with an adapter on one device, or FSDP or ZeRO.",
    avoid=("trusting a falling loss: the other layers alone can lower it.",),
    shows_as=("no error: the loss falls, and the offloaded layers get no gradient",),
    texts=texts_of(r"""
        accelerate refuses to train a quantized model that is partly offloaded
            10: can't train a model that has been loaded in 8-?bit or 4-?bit precision with cpu or disk offload
        near meta: a training loop is part of it
            4: sfttrainer|optimizer\.step|trainer\.train\(
    """),
    cases=cases_of("""
        T11 SFTTrainer on a partly offloaded 4-bit model: huggingface/trl#4018 aidenli/ComfyUI_NYJY#21
        T67 offloaded layers get no gradient: instructlab/instructlab#610
    """),
    needs="offloaded",
    enough=10,
    is_act=True,
)


def from_state(e: Evidence) -> Found:
    if e.facts and e.facts.frozen_out:
        because = "Other parameters have received gradients; these are on meta and have none."
        yield CAUSE.finding("shown", e.facts.frozen_out, silent=True, because=(because,))


def from_text(trace: Trace) -> Points:
    if not trace.says("meta"):
        return
    in_training = trace.calls("train", "training_step", "_inner_training_loop")
    if in_training and trace.says("load_in_4bit", "4bit", "4-bit"):
        yield Point(8, "a 4-bit model that is partly on meta was being trained")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_with_map("single", "only layers that are on a device are trained")
