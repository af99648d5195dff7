"""Common advice from the web, tried on a model that is really broken, and the fixes of the catalogue, proved.

The broken model has two blocks on disk whose hooks were taken off: the state behind the headline error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from diag.errors import DiagError
from diag.reproduce import get
from diag.reproduce.common import checkpoint_state, error_of, logits
from diag.reproduce.scenario import Stage, quiet
from diag.reproduce.scenarios import hooks_removed
from diag.values.finding import Findings
from diag.values.spec import LoadSpec
from diag.values.text import error_line

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


@dataclass(frozen=True)
class Suggestion:
    """What people are told to do, when that is right, and what does it: `act` returns the model to use afterwards."""

    says: str
    when: str
    act: Callable[[Stage], nn.Module]


@dataclass(frozen=True)
class Fixed:
    """What `diag.fix` did. `verdict` is `proved`, `not proved`, `by hand` or `fails`; `proof` says why."""

    fix: str
    verdict: str
    proof: str


def try_advice() -> pd.DataFrame:
    """One row per advice: what it does to the broken model, the verdict of the proof, and when it is right.

    Breaks a model anew for each, which takes some seconds in all. `verdict` is `proved`, `wrong answer` or `fails`.
    """
    import pandas as pd

    rows = [(one.says, *_tried(one), one.when) for one in ADVICE]
    return pd.DataFrame(rows, columns=["advice", "verdict", "what_happened", "right_when"])


def _tried(advice: Suggestion) -> tuple[str, str]:
    """The verdict on an advice, and what happened."""
    from diag.proving.proof import prove

    with hooks_removed.SCENARIO.run() as stage, quiet(stage.notes):
        spec = LoadSpec(str(stage.checkpoint()), device_map="none")
        try:
            model = advice.act(stage)
        except Exception as error:
            return "fails", error_line(error)
        proof = prove(model, spec)
        if proof.proved:
            return "proved", proof.reason
        return ("fails" if error_of(logits, model) else "wrong answer"), proof.reason


def try_fixes(names: Iterable[str]) -> pd.DataFrame:
    """One row per scenario: its cause as diagnosed, the first fix, and the proof of applying it. Seconds for each."""
    import pandas as pd

    rows = []
    for name in names:
        with get(name).run() as stage:
            found = stage.diagnose()
            done = apply_fix(found)
            rows.append((name, found[0].cause, found[0].fixes[0].because, done.verdict, done.proof))
    return pd.DataFrame(rows, columns=["scenario", "diagnosed", "fix", "verdict", "proof"])


def apply_fix(found: Findings) -> Fixed:
    """Does what `diag.fix` does with these findings, and says what came of it; never raises for one that fails."""
    from diag.diagnosis.mending.fixes import fix

    try:
        with quiet([]):
            outcome = fix(found)
    except DiagError as error:
        by_hand = found[0].fixes[-1].because if found and found[0].fixes else error.next_step
        why = "nothing to prove before somebody has changed the code, the files or the environment"
        return Fixed(f"by hand: {by_hand}", "by hand", why)
    if outcome.error is not None or outcome.proof is None:
        return Fixed("; ".join(outcome.notes), "fails", str(outcome.error))
    verdict = "proved" if outcome.proof.proved else "not proved"
    return Fixed(outcome.notes[0], verdict, outcome.proof.reason)


def compare_guards(models: Mapping[str, nn.Module]) -> pd.DataFrame:
    """One row per model: what two guards say about it, and what a call of it does. Each model is called once.

    The guard of the first analysis was `any(p.device.type == "meta" for p in model.parameters())`; the other one is
    `require_materialised`.
    """
    import pandas as pd

    from diag.diagnosis.mending.fixes import require_materialised

    rows = []
    for name, model in models.items():
        refused = any(p.is_meta for p in model.parameters()), error_of(require_materialised, model)
        said = ("refuses it" if guard else "lets it pass" for guard in refused)
        rows.append((name, *said, error_of(logits, model) or "answers"))
    return pd.DataFrame(rows, columns=["model", "any_parameter_on_meta", "require_materialised", "when_called"])


# --- the advice -------------------------------------------------------------------------------------------------------


def _tie(stage: Stage) -> nn.Module:
    stage.model.tie_weights()
    return stage.model


def _load_state(stage: Stage, assign: bool = False) -> nn.Module:
    stage.model.load_state_dict(checkpoint_state(stage), strict=False, assign=assign)
    return stage.model


def _dispatch_again(stage: Stage) -> nn.Module:
    from accelerate import dispatch_model

    return dispatch_model(stage.model, stage.model.hf_device_map, offload_dir=str(stage.folder / "again"))


def _reload(**arguments: object) -> Callable[[Stage], nn.Module]:
    def act(stage: Stage) -> nn.Module:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(str(stage.checkpoint()), trust_remote_code=False, **arguments)

    return act


ADVICE = (
    Suggestion(
        "Move the model: model.to(device).",
        "Nothing is on meta, and no map placed the model.",
        lambda stage: stage.model.to("cpu"),
    ),
    Suggestion(
        "Use to_empty() instead, as the error text says.",
        "You fill every parameter and buffer yourself.",
        lambda stage: stage.model.to_empty(device="cpu"),
    ),
    Suggestion("Call model.tie_weights().", "Only a tie was lost.", _tie),
    Suggestion("Load the state dict into it again.", "The parameters have memory: never for meta ones.", _load_state),
    Suggestion(
        "Load the state dict with assign=True.",
        "The file holds every tensor, buffers included.",
        partial(_load_state, assign=True),
    ),
    Suggestion(
        "Dispatch it again with accelerate.", "The weights are real, before the first dispatch.", _dispatch_again
    ),
    Suggestion(
        "Load again with device_map='auto'.",
        "The cause was in what was done after loading.",
        _reload(device_map="auto"),
    ),
    Suggestion("Load again without a device_map.", "The whole model fits on one device.", _reload()),
    Suggestion(
        "Load with low_cpu_mem_usage=False.",
        "In version 5 it is ignored: this is an ordinary load.",
        _reload(low_cpu_mem_usage=False),
    ),
)
