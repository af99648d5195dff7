"""plan() decides, fix() acts; and the three lines a service needs: require_materialised(), explain_exception().

Nothing is written to a user's files. A reload makes a second model; its memory is in the plan.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from diag.diagnosis.mending.plans import plan
from diag.diagnosis.situation import reload_as
from diag.errors import CouldNotJudgeError, DiagError
from diag.values.finding import Finding, Findings, Fix, names_in_words
from diag.values.outcome import LoadOutcome, Proof
from diag.values.spec import LoadSpec

if TYPE_CHECKING:
    import torch

    from diag.models.snapshot import Snapshot

Model = TypeVar("Model")

_log = logging.getLogger("diag")


def fix(found: Findings, *, spec: LoadSpec | None = None) -> LoadOutcome:
    """Applies the first safe fix of the first finding and proves it; the outcome has the model and the `proof`.

    A repair changes the model that was diagnosed and returns it; a reload returns a new one. Where a fix fails while it
    is applied, the model is left as it was and the next safe one is tried; `notes` begin with what was applied and why
    the others were not; where none could be applied, `error` says what was tried. `proof` says `not proved` where the
    result could not be shown to be right. Raises DiagError when the findings know no model and no spec, when nothing
    is wrong, or when only a person can fix it (the text says how).
    """
    from diag.models.snapshot import take

    finding, subject = _first_wrong(found), found.subject
    planned = plan(finding, spec)  # for the subject's own spec diagnose() has worked them out
    spec = spec or subject.spec
    if subject.model is None and spec is None:
        raise DiagError(
            "there is nothing to apply a fix to.",
            why="the findings come from a text or a table, without a model or a spec.",
            next_step="diag.fix(diag.diagnose(model)), or pass spec=diag.LoadSpec('…', device_map='auto').",
        )
    snapshot = None if subject.model is None else take(subject.model)
    ways = [one for one in planned if one.kind in ("in-place", "reload")]
    failed: list[str] = []
    for chosen in ways:
        outcome = _tried(chosen, finding, snapshot, spec, failed, ways)
        if outcome is not None:
            notes = (f"applied: {chosen.action} ({chosen.because})", *failed, *outcome.notes)
            return replace(outcome, notes=notes)
    problem = _not_fixed(finding, planned[-1], failed)
    if not failed:
        raise problem
    return LoadOutcome(spec or _spec_for(snapshot), error=problem, notes=tuple(failed))


def _first_wrong(found: Findings) -> Finding:
    for finding in found:
        if finding.severity != "info":
            return finding
    raise DiagError(
        "there is nothing to fix.",
        why="the model is healthy: every tensor has its data, and no value is known to be wrong.",
        next_step="if something failed, pass the exception: diag.diagnose(model, error=exc).",
    )


def _tried(
    chosen: Fix, finding: Finding, snapshot: Snapshot | None, spec: LoadSpec | None, failed: list[str], ways: list[Fix]
) -> LoadOutcome | None:
    """The outcome with a model, or None and the reason in `failed`; keeps no exception, whose frames hold memory."""
    from diag.models.undo import all_or_nothing

    try:
        with all_or_nothing(snapshot):
            outcome = _apply(chosen, finding, snapshot, spec)
            if outcome.error is not None:
                raise outcome.error
            if chosen is not ways[-1] and outcome.proof is not None and outcome.proof.proved is False:
                raise CouldNotJudgeError(f"its result was {outcome.proof}")
    except Exception as error:
        _log.debug("%s failed", chosen.action, exc_info=True)
        said = " ".join((str(error).strip() or "no further text").splitlines()[:3])
        failed.append(f"not applied: {chosen.action}, {type(error).__name__}: {said}")
        ways += _beside_the_broken_one(chosen) if type(error).__name__ == "OutOfMemoryError" else []
        return None
    return outcome


def _beside_the_broken_one(chosen: Fix) -> list[Fix]:
    """The broken model keeps its device's memory for as long as its owner keeps it: the CPU has room beside it."""
    if chosen.spec is None or chosen.spec.device_map == "cpu":
        return []
    why = "on the CPU, since the broken model still takes the device's memory; without it, load the spec as it was"
    return [reload_as(chosen.spec.replace(device_map="cpu"), why)]


def _not_fixed(finding: Finding, by_hand: Fix, failed: list[str]) -> DiagError:
    said = "can't be fixed from here."
    why = "the fix is in the code, the files or the environment, not in the model."
    if failed:
        tried = "the only fix" if len(failed) == 1 else "each fix"
        said = f"is not fixed: {tried} that can be applied failed, and the model is as it was."
        why = f"{'; '.join(failed)}."
    return DiagError(f"{finding.cause} {said}", why=why, next_step=by_hand.because)


def _apply(chosen: Fix, finding: Finding, snapshot: Snapshot | None, spec: LoadSpec | None) -> LoadOutcome:
    if chosen.kind == "reload":
        from diag.loading.recipe import load

        assert chosen.spec is not None
        left_out = _not_in_the_files(snapshot, finding, chosen.spec)
        outcome = load(chosen.spec)
        if outcome.model is None:
            return outcome
        other = _of_another_kind(snapshot, outcome.model)
        proof = Proof(None, f"could not be judged: {other}") if other else _prove(outcome.model, chosen.spec)
        return replace(outcome, proof=proof, notes=(*left_out, *outcome.notes))
    from diag.diagnosis.mending.repairs import REPAIRS

    assert snapshot is not None  # only what was diagnosed with its model can be repaired in place
    REPAIRS[chosen.repair](snapshot, finding, spec)
    return LoadOutcome(spec or _spec_for(snapshot), snapshot.given, proof=_prove(snapshot.given, spec))


def _of_another_kind(snapshot: Snapshot | None, loaded: object) -> str:
    """Why a proof of the loaded model would say nothing about the one that was to be fixed; empty where it does."""
    from diag.models.adapters import carries_adapter, without_adapter

    if snapshot is None or snapshot.is_bundle:
        return ""
    whole = getattr(snapshot.root, "_orig_mod", snapshot.root)
    kinds = [type(without_adapter(one)).__name__ for one in (whole, loaded)]
    if kinds[0] != kinds[1]:
        return f"the model is a {kinds[0]}, and its checkpoint's config makes a {kinds[1]} of the files."
    lost = snapshot.carries_adapter and not carries_adapter(loaded)
    return "the model carries an adapter, and what was loaded has none." if lost else ""


def _not_in_the_files(snapshot: Snapshot | None, finding: Finding, spec: LoadSpec) -> tuple[str, ...]:
    """Says which values of the model, other than the finding's, a reload does not bring back."""
    from diag.proving.weights import verify_weights

    if snapshot is None or snapshot.is_bundle:
        return ()
    try:
        table = verify_weights(snapshot, spec)
    except Exception:  # files that can't be read: the load says so
        return ()
    names = [name for name in table.name[table.status.isin(("differs", "shape"))] if name not in finding.tensors]
    if not names:
        return ()
    others = f"what was loaded has the values of the files of {spec.model!r}; the broken model had others in "
    return (f"{others}{names_in_words(names, 4)}: what was put in after its load is not in it",)


def _prove(model: Any, spec: LoadSpec | None) -> Proof:
    try:
        from diag.proving.proof import prove

        return prove(model, spec)
    except Exception as error:  # an older stack, or a model that prove can't run
        return Proof(None, f"could not be judged: {type(error).__name__}: {error}")


def _spec_for(snapshot: Snapshot | None) -> LoadSpec:
    from diag.loading.origin import checkpoint_name

    model = None if snapshot is None else snapshot.given
    return LoadSpec(checkpoint_name(model) or type(model).__name__, device_map="none")


# --- three lines for a service ---------------------------------------------------------------------------------


def require_materialised(model: Model) -> Model:
    """Returns the model when every tensor has its data, offloaded ones included; raises MetaWithoutDataError else.

    The guard for a service: it refuses only what is really broken. Reads attributes only.
    """
    from diag.diagnosis.mending.repairs import not_in_store, without_data
    from diag.models.snapshot import take

    snapshot = take(model)
    missing = [entry.name for entry in snapshot.entries if entry.backing.kind == "none"]
    if missing:
        raise without_data(snapshot, missing)
    if sought := [entry.name for entry in snapshot.entries if entry.is_sought_in_vain]:
        raise not_in_store(snapshot, sought)
    return model


def explain_exception(error: BaseException, model: object = None) -> str:
    """For an `except` block: logs cause, tensors and fix, and returns an id that is safe to show a client.

    Never raises: where the diagnosis itself fails, the log says so. Logger `diag`, level ERROR.
    """
    number = uuid.uuid4().hex[:12]
    try:
        from diag.diagnosis.engine import diagnose

        found = diagnose(model, error=error)
        _log.error("[%s] %s: %s\n%s", number, type(error).__name__, error, found)
    except Exception as failure:
        why = f"no diagnosis: {type(failure).__name__}: {failure}"
        _log.error("[%s] %s: %s (%s)", number, type(error).__name__, error, why)
    return number


def materialise(model: Model, device: torch.device | str | int | None = None) -> Model:
    """Brings every offloaded tensor in, takes the hooks off and puts the model on one device; returns the model.

    Without `device` it is the device where the model runs, or the CPU where its hooks name several. Takes as much
    memory there as the whole model. All or nothing: raises MetaWithoutDataError, naming them, when a meta tensor has
    no data anywhere, or the device's out-of-memory error, and leaves the model as it was then. A forward that was put
    past its hook goes with the hooks.
    """
    from diag.diagnosis.mending import repairs
    from diag.models.snapshot import take

    repairs.materialise(take(model), device)
    return model
