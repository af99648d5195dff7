"""concurrent-calls: several threads called one offloaded model at once."""

from diag.diagnosis.cause import HEADLINE, LATER_META, SILENT, Cause, Fixes, Found, Point, Points
from diag.diagnosis.evidence import Evidence, Handling, Trace, WeightUse
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="concurrent-calls",
    rank=50,
    title="Several threads called one offloaded model at once",
    explanation="The hooks of an offloaded model bring each weight in before a module runs and put the placeholder "
    "back after it, on the module itself. Two calls at the same time share these modules: one takes a weight away "
    "while the other is about to use it. Some calls fail with the headline text, others answer with random memory, and "
    "a call that runs alone is right again. A web service that answers requests in threads does this as soon as two "
    "requests overlap, which is often just after start-up.",
    proves=(
        "Every weight has its data at rest, a hook ran right before the failing forward, and still it met meta.",
        "The same calls one after the other all answer right.",
    ),
    rules_out=("One thread calls the model, or nothing of it is offloaded.",),
    check="Does it fail only when requests overlap, and is a single request afterwards answered correctly?",
    fix="Run one call at a time, with a lock around the call or one worker queue; or load without offload "
    "(device_map='single'), where calls do not disturb each other.",
    avoid=("retrying: an overlapping call may also return a wrong answer without an error.",),
    seen_as=(HEADLINE, LATER_META),
    shows_as=(SILENT,),
    needs="offloaded",
    enough=10,
)


def from_error(e: Evidence) -> Found:
    if e.site and e.handling is Handling.META_AFTER_HOOK:
        because = ("At rest every weight has its data; a hook ran right before, and it was meta.",)
        check = ("Do several threads call the model? One call at a time answers right.",)
        yield CAUSE.finding("likely", e.site.tensors, module=e.site.where, silent=False, because=because, check=check)


def from_text(trace: Trace) -> Points:
    if not trace.meets_meta:
        return
    if trace.weight_use is WeightUse.AFTER_HOOK:
        served = trace.passes("concurrent/futures/thread.py", "threading.py", "anyio/", "starlette/", "uvicorn")
        how = "a hook ran right before, and still the weight was meta, as when threads call it at once"
        yield Point(9 if served else 6, f"{trace.order}; {how}")
    if trace.says("uvicorn", "gunicorn", "http/1.0500", "http/1.1500", "internalservererror"):
        yield Point(3 + trace.dispatched, trace.order)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    why = "a model that is not offloaded can be called by several threads"
    return (*situation.bring_in(), *situation.reload_with_map("single", why))
