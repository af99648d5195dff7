"""constructor-on-meta: the model's own code needs numbers while it is being built without any."""

from diag.diagnosis.cause import ITEM, Cause, Point, Points, cases_of
from diag.diagnosis.evidence import Trace

CAUSE = Cause(
    id="constructor-on-meta",
    rank=130,
    title="The model's own code needs numbers while it is being built without any",
    versions="always under transformers 5; with device_map or low_cpu_mem_usage under 4.50 and later",
    explanation="transformers 5 always builds a model on meta before it loads the weights. A constructor that computes "
    "Python numbers from tensors (torch.linspace(...)[i].item(), .tolist(), .numpy(), if tensor:) fails then, before "
    "any weight was read. Older custom and remote code does this often.",
    proves=("The exception comes from a constructor under from_pretrained; no model exists yet.",),
    rules_out=("The model was returned by from_pretrained.",),
    check="Is the model's own __init__ in the traceback, below from_pretrained?",
    fix="Compute such numbers with plain Python or NumPy in the constructor, or use the transformers 4 release that "
    "the code was written for.",
    avoid=("low_cpu_mem_usage=False: transformers 5 builds on meta with either value.",),
    seen_as=(ITEM,),
    cases=cases_of("""
        T53 a constructor calls .item(): huggingface/transformers#43957 microsoft/TRELLIS.2#101 OpenGVLab/VideoMAEv2#87
        T54 a constructor calls .tolist() or .numpy(): TransformerLensOrg/TransformerLens#1097
            huggingface/transformers#43957
    """),
)


def from_text(trace: Trace) -> Points:
    if not trace.value_asked:
        return
    said = "the value of a meta tensor was asked for"
    builders = ("__init__", "post_init", "_init_weights", "build", "setup")
    built = any(frame.name in builders for frame in trace.frames[1:])
    if built or trace.loading:
        yield Point(9 if built else 6, f"{said} while the model was built")
    if not trace.frames:
        yield Point(4, f"{said}; under transformers 5 most often by a model's own __init__")
