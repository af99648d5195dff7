"""missing-weight-data: the weight is offloaded, but its data is not where the hook looks."""

import re

from diag.diagnosis.cause import HEADLINE, VALUE, Cause, Fixes, Found, Point, Points, cases_of
from diag.diagnosis.evidence import Evidence, Lack, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="missing-weight-data",
    rank=170,
    looks_at=("lost", "unserved"),
    title="The weight is offloaded, but its data is not where the hook looks",
    explanation="A hook reads a disk-offloaded weight from a file on every forward: for safetensors that is the "
    "original checkpoint. If the checkpoint has no such tensor (a new head, renamed keys), loading succeeds and the "
    "first forward fails with a KeyError; if the file was removed, with FileNotFoundError. Attaching or removing a "
    "hook says 'weight is on the meta device, we need a value'.",
    proves=(
        "A hook with offload=True serves the tensor, and its store has no such key, or holds only a placeholder.",
        "The file that the store names does not exist.",
    ),
    rules_out=("The store has the key and the file is there.",),
    check="Did loading report the tensor as missing, and are the checkpoint's files still in place?",
    fix="Repair the checkpoint, or keep newly initialised layers off disk in the map; keep the files where they are "
    "for as long as the model lives.",
    avoid=("ignoring the 'newly initialized' line: such a weight is random on a real device, and a KeyError on disk.",),
    seen_as=("KeyError: '….weight'", VALUE, "No such file or directory: …", HEADLINE),
    cases=cases_of("""
        T23 a hook is attached to a weight that never arrived: huggingface/accelerate#1197 huggingface/accelerate#1289
            huggingface/accelerate#2906 01-ai/Yi#225
        T25 KeyError: the disk index lacks the tensor: huggingface/accelerate#512
        T28 a missing key ends in torch.distributed
        T64 the checkpoint was removed while in use
    """),
    needs="orphans",
    enough=6,
    loses_data=True,
    is_ambiguous=True,
)


_WEIGHT_NAME = re.compile(
    r"(?<![\w/])\w+(?:\.\w+)*\.(?:weight|bias|inv_freq|running_(?:mean|var)|absmax|SCB|gamma|beta|lora_[AB]\S*)(?!\w)"
    r"|\w\.(?:layers?|h|blocks?|block)\.\d+\."
)


def from_state(e: Evidence) -> Found:
    if lost := e.lost.get(Lack.NOT_IN_STORE):
        yield CAUSE.lacking(lost, f"A hook serves them, and {lost.reason or 'its store has no data for them'}.")
    if unserved := e.unserved.get(Lack.NOT_IN_STORE):
        yield CAUSE.lacking(unserved)


def from_text(trace: Trace) -> Points:
    if trace.needed_value:
        yield Point(6, trace.no_value_for)
    offload = trace.passes("accelerate/utils/offload.py", "accelerate/hooks.py")
    if trace.missing_key and (offload or _WEIGHT_NAME.search(trace.missing_key)):
        yield Point(10 if offload else 6, f"the offload index has no tensor {trace.missing_key}")
    message = trace.report.last.message if trace.report.last else ""
    if re.search(r"\.(?:safetensors|dat|bin)\b|index\.json", message) and trace.says("nosuchfile"):
        in_forward = offload or trace.calls("pre_forward", "__getitem__", "generate")
        yield Point(10 if in_forward else 4, "the file that backs offloaded weights is gone")
    if trace.says("defaultprocessgrouphasnotbeeninitialized"):
        loads = trace.calls("load_checkpoint_in_model", "load_checkpoint_and_dispatch")
        no_map = loads or trace.passes("accelerate/utils/modeling.py")
        said = "accelerate's load without a map goes through torch.distributed when a key is missing"
        yield Point(9 if no_map else 2, said)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    meanwhile = " Until then keep these modules off disk in the map."
    return (*situation.reload_alike(), *situation.complete_the_files(finding, meanwhile=meanwhile))
