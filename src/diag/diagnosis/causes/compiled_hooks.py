"""compiled-hooks: torch.compile met accelerate's hooks."""

from diag.diagnosis.cause import HEADLINE, Cause, Fixes, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="compiled-hooks",
    rank=60,
    title="torch.compile met accelerate's hooks",
    explanation="Hooks exchange parameters around every forward, which a compiler can't follow. By default it leaves "
    "them out of the graph and compiles the pieces between them; with fullgraph=True, export, or a map over several "
    "GPUs it raises an error.",
    proves=("Hooks are on the model, and the exception comes from torch._dynamo.",),
    rules_out=("The model has no hooks.",),
    check="Does the same call work without torch.compile?",
    fix="Do not compile a dispatched model with fullgraph=True; compile one that was loaded without a map.",
    avoid=("suppress_errors: it hides the breaks and compiles nothing.",),
    seen_as=("Skip calling `torch.compiler.disable()`d function…", HEADLINE),
    texts=texts_of(r"""
        torch.compile traced the model
            9: dynamo failed to run fakes|fakens?tensor device propagation|torch\.compiler\.disable\(\)`?d function
    """),
    cases=cases_of("""
        T72 torch.compile over a dispatched model: pytorch/pytorch#93484 huggingface/accelerate#2592
            pytorch/pytorch#150711
        T73 fullgraph=True over hooks: huggingface/accelerate#3885 vipshop/cache-dit#1012
    """),
    is_act=True,
)


def from_text(trace: Trace) -> Points:
    if not trace.compiling:
        return
    if trace.mixed is not None:
        yield Point(9, "the mix was met while torch.compile traced the model")
    if trace.passes("accelerate/hooks.py"):
        yield Point(6, "torch.compile traced into accelerate's hooks")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return (*situation.bring_in(), *situation.reload_with_map("none", "a model without hooks can be compiled"))
