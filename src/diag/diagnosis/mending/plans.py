"""Which fixes there are for a finding, safest first: values, not actions. `diag.fix` carries them out."""

from diag.diagnosis import causes
from diag.diagnosis.situation import Situation, put_the_adapter_on_again
from diag.values.finding import Finding, Fix
from diag.values.spec import LoadSpec


def plan(finding: Finding, spec: LoadSpec | None = None) -> tuple[Fix, ...]:
    """The ways out of one finding, safest first. Pure: nothing is done.

    Fixes that `diagnose` already attached are kept; with `spec` those that load again are worked out for it.
    """
    found = finding.fixes or fixes_for(finding, Situation())
    if spec is None or not can_reload(found[-1], spec):
        return found
    reloads = [one for one in fixes_for(finding, Situation(spec=spec)) if one.kind == "reload"]
    in_place = [one for one in found if one.kind == "in-place"]
    return (*in_place, *reloads, *(one for one in found if one.by_hand))


def fixes_for(finding: Finding, situation: Situation) -> tuple[Fix, ...]:
    """Fixes for one finding, safest first; the last is always what a person can do by hand."""
    file = causes.CATALOGUE[finding.cause]
    own = file.fixes(finding, situation) if file.fixes else ()
    last = next((one for one in own if one.by_hand), None)
    if last is None and situation.adapter_is_unknown:
        last = put_the_adapter_on_again(f"{file.cause.fix} Then put the adapter on again.")
    avoid = file.cause.avoid[0] if file.cause.avoid else ""
    last = last or Fix(file.cause.fix_kind, because=file.cause.fix, avoid=avoid)
    in_place = [one for one in own if one.kind == "in-place"]
    reloads: dict[LoadSpec | None, Fix] = {}
    for one in own:
        if one.kind == "reload" and can_reload(last, one.spec):
            reloads.setdefault(one.spec, one)
    return (*in_place, *reloads.values(), last)


def can_reload(last: Fix, spec: LoadSpec | None) -> bool:
    """Whether loading this spec can help, going by what the finding's last fix requires."""
    return all(one.is_met_by(spec) for one in last.requires)
