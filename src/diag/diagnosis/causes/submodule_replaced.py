"""submodule-replaced: A module was swapped after loading and stands outside the device map."""

from diag.diagnosis.cause import SILENT, Cause, Fixes, Found, cases_of
from diag.diagnosis.evidence import Evidence, Lack
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="submodule-replaced",
    rank=110,
    looks_at=("lost", "unserved", "new_names", "strays"),
    title="A module was swapped after loading and stands outside the device map",
    severity="silent",
    explanation="The map and the hooks belong to the modules that were there when the model was dispatched. A module "
    "that is put in later (another MLP, an adapter, a quantized layer) has no hook: its inputs are not moved, its "
    "weights are not brought in, and its values are not the checkpoint's.",
    proves=(
        "A module has no hook while all its neighbours under the same map have one.",
        "Its class or its tensors are not those of the model's own definition.",
    ),
    rules_out=("The module's parent carries a hook that places submodules.",),
    check="Does the code assign into the model (model.x.mlp = ..., setattr) after from_pretrained?",
    fix="Replace modules before loading, or dispatch the model again after the replacement with its real weights.",
    avoid=("moving the new module by hand: its values are still not the checkpoint's.",),
    shows_as=(SILENT,),
    cases=cases_of("""
        T78 a submodule replaced after loading: intel/auto-round#1308
    """),
    loses_data=True,
    puts_elsewhere=True,
)


def from_state(e: Evidence) -> Found:
    if lost := e.lost.get(Lack.NEWCOMER):
        yield CAUSE.lacking(lost, "Their modules were not there when the model was loaded.")
    if unserved := e.unserved.get(Lack.NEWCOMER):
        yield CAUSE.lacking(unserved)
    facts = e.facts
    if facts is None or not (e.new_names or facts.strays):
        return
    tied = {name for pair in e.broken_ties for name in pair}  # the lost tie says more than the exchange
    rows = [row for row in e.rows if row.kind == "parameter" and not row.is_orphan and row.name not in tied]
    strays = [row for row in rows if row.module in facts.strays]
    new = [row for row in rows if row.name in e.new_names]
    wrong = [row.name for row in [*new, *strays] if row.name in facts.wrong_values]
    unhooked = [row.name for row in new if row.module in facts.strays and row.mapped_device]
    if wrong or unhooked:
        because = ["These modules were not there when the model was loaded."]
        because += ["Their values have nothing to do with the checkpoint's."] if wrong else []
        because += ["Their neighbours have hooks, and they have none."] if unhooked else []
        culprits = tuple(dict.fromkeys([*wrong, *unhooked]))
        yield CAUSE.finding("shown" if wrong else "likely", culprits, because=tuple(because))


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return (*situation.refill(finding), *situation.reload_alike())
