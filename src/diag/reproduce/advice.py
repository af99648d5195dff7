"""Common advice from the web, tried on a model that is really broken, and the fixes of the catalogue, proved.

The patient has two blocks on disk whose hooks were taken off: the state behind the headline error.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diag.errors import DiagError
from diag.reproduce import get
from diag.reproduce.scenario import Stage, without_bars
from diag.values.finding import Findings
from diag.values.outcome import Proof
from diag.values.spec import LoadSpec

_NOTHING_YET = "nothing to prove before somebody has changed the code, the files or the environment"


@dataclass(frozen=True)
class Advice:
    """What people are told to do, done: `act` returns the model to use afterwards. `when` says what it is good for."""

    says: str
    act: Callable[[Stage], Any]
    when: str


@dataclass(frozen=True)
class Fixed:
    """What `diag.fix` did. `verdict` is `proved`, `not proved`, `by hand` or `fails`; `proof` says why."""

    fix: str
    verdict: str
    proof: str


def try_advice() -> Any:
    """One row per advice: what it does to the broken model, the verdict of the proof, and when it is right.

    Plays the scenario anew for each; some seconds in all. `verdict` is `proved`, `wrong answer` or `fails`.
    """
    import pandas as pd

    rows = [(one.says, *_tried(one), one.when) for one in ADVICE]
    return pd.DataFrame(rows, columns=["advice", "verdict", "what_happened", "right_when"])


def try_fixes(names: Iterable[str]) -> Any:
    """One row per scenario: its cause as diagnosed, the first fix, and the proof of applying it. Seconds for each."""
    import pandas as pd

    rows = [(name, *_fixed(name)) for name in names]
    return pd.DataFrame(rows, columns=["scenario", "diagnosed", "fix", "verdict", "proof"])


def compare_guards(models: Mapping[str, Any]) -> Any:
    """One row per model: what the guard of the first analysis says, what require_materialised says, and what a call
    does.

    That guard was `any(p.device.type == "meta" for p in model.parameters())`. Each model is called once.
    """
    import pandas as pd

    rows = [
        (name, _says(any(p.is_meta for p in model.parameters())), _says(_is_refused(model)), _when_called(model))
        for name, model in models.items()
    ]
    return pd.DataFrame(rows, columns=["model", "any_parameter_on_meta", "require_materialised", "when_called"])


def _says(refused: bool) -> str:
    return "refuses it" if refused else "lets it pass"


def _is_refused(model: Any) -> bool:
    from diag.diagnosis.mending.fixes import require_materialised
    from diag.errors import MetaWithoutDataError

    try:
        require_materialised(model)
    except MetaWithoutDataError:
        return True
    return False


def _when_called(model: Any) -> str:
    from diag.reproduce.common import token_ids

    try:
        model(token_ids())
    except Exception as error:
        return _first_line(error)
    return "answers"


def _tried(advice: Advice) -> tuple[str, str]:
    from diag.proving.proof import prove

    with get("hooks-removed").run() as stage, _quiet():
        spec = LoadSpec(str(stage.checkpoint()), device_map="none")
        try:
            model = advice.act(stage)
        except Exception as error:
            return "fails", _first_line(error)
        return _judged(prove(model, spec))


def _judged(proof: Proof) -> tuple[str, str]:
    if proof.proved:
        return "proved", proof.reason
    return ("fails" if "raised" in proof.reason else "wrong answer"), proof.reason


def _fixed(name: str) -> tuple[str, str, str, str]:
    with get(name).run() as stage:
        found = stage.diagnose()
        done = apply_fix(found)
        return found[0].cause, found[0].fixes[0].because, done.verdict, done.proof


def apply_fix(found: Findings) -> Fixed:
    """Does what `diag.fix` does with these findings, and says what came of it; never raises for one that fails."""
    from diag.diagnosis.mending.fixes import fix

    try:
        with _quiet():
            outcome = fix(found)
    except DiagError as error:
        by_hand = found[0].fixes[-1].because if found and found[0].fixes else error.next_step
        return Fixed(f"by hand: {by_hand}", "by hand", _NOTHING_YET)
    if outcome.error is not None or outcome.proof is None:
        return Fixed("; ".join(outcome.notes), "fails", str(outcome.error))
    verdict = "proved" if outcome.proof.proved else "not proved"
    return Fixed(outcome.notes[0], verdict, outcome.proof.reason)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and progress bars: what the libraries say while bad advice is tried is part of the verdict."""
    with warnings.catch_warnings(), without_bars():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


# --- the advice -------------------------------------------------------------------------------------------------------


def _move(stage: Stage) -> Any:
    return stage.model.to("cpu")


def _empty(stage: Stage) -> Any:
    return stage.model.to_empty(device="cpu")


def _tie(stage: Stage) -> Any:
    stage.model.tie_weights()
    return stage.model


def _load_state(stage: Stage) -> Any:
    stage.model.load_state_dict(_state(stage), strict=False)
    return stage.model


def _load_and_assign(stage: Stage) -> Any:
    stage.model.load_state_dict(_state(stage), strict=False, assign=True)
    return stage.model


def _dispatch_again(stage: Stage) -> Any:
    from accelerate import dispatch_model

    return dispatch_model(stage.model, stage.model.hf_device_map, offload_dir=str(stage.folder / "again"))


def _reload(stage: Stage, **arguments: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(stage.checkpoint()), trust_remote_code=False, **arguments)


def _reload_auto(stage: Stage) -> Any:
    return _reload(stage, device_map="auto")


def _reload_plain(stage: Stage) -> Any:
    return _reload(stage)


def _reload_low_memory_off(stage: Stage) -> Any:
    return _reload(stage, low_cpu_mem_usage=False)


def _state(stage: Stage) -> dict[str, Any]:
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for file in sorted(stage.checkpoint().glob("*.safetensors")):
        state.update(load_file(file))
    return state


ADVICE = (
    Advice("Move the model: model.to(device).", _move, "Nothing is on meta, and no map placed the model."),
    Advice("Use to_empty() instead, as the error text says.", _empty, "You fill every parameter and buffer yourself."),
    Advice("Call model.tie_weights().", _tie, "Only a tie was lost."),
    Advice("Load the state dict into it again.", _load_state, "The parameters have memory: never for meta ones."),
    Advice("Load the state dict with assign=True.", _load_and_assign, "The file holds every tensor, buffers included."),
    Advice("Dispatch it again with accelerate.", _dispatch_again, "The weights are real, before the first dispatch."),
    Advice("Load again with device_map='auto'.", _reload_auto, "The cause was in what was done after loading."),
    Advice("Load again without a device_map.", _reload_plain, "The whole model fits on one device."),
    Advice(
        "Load with low_cpu_mem_usage=False.",
        _reload_low_memory_off,
        "In version 5 it is ignored: this is an ordinary load.",
    ),
)
