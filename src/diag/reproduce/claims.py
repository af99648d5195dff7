"""The claims of the first analysis and the web's usual advice, each settled by running it.

Verdicts are `true`, `false` or `only when …`; they are computed from what happens, so that a new version of a library
that changes an answer changes the table.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from diag.loading import samples
from diag.reproduce import get, quickfixes
from diag.reproduce.common import logits, token_ids
from diag.values.spec import LoadSpec

HEADLINE = "is not on the expected device meta"
_ONE_GPU = "300MiB+8GiB"


@dataclass(frozen=True)
class Claim:
    """A sentence that was said, how it is settled, and the scenario or the call that shows it."""

    says: str
    settle: Callable[[], Verdict]
    scenario: str = ""
    kind: str = "cause"


@dataclass(frozen=True)
class Verdict:
    """`answer` is true, false or only when …; `because` is what happened."""

    answer: str
    because: str


def table():
    """Runs every claim: a DataFrame with kind, claim, verdict, because, scenario and the versions it ran on."""
    import pandas as pd

    rows = []
    for claim in CLAIMS:
        verdict = claim.settle()
        gc.collect()
        rows.append((claim.kind, claim.says, verdict.answer, verdict.because, claim.scenario, versions()))
    return pd.DataFrame(rows, columns=["kind", "claim", "verdict", "because", "scenario", "versions"])


def versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate"))


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0] if error else ""


def _text_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return _first_line(error)
    return ""


def _run_on_model_device(**fields: Any) -> None:
    from diag.loading.recipe import load

    model = load(LoadSpec("tiny", **fields)).model
    model(token_ids().to(model.device))


def _no_problem(**fields: Any) -> bool:
    """Whether this load of the tiny sample is proved."""
    return not quickfixes.Try("", tuple(fields.items())).problem()


def _error_of(scenario: str) -> str:
    with get(scenario).run() as stage:
        return _first_line(stage.error)


# --- causes that were named ------------------------------------------------------------------------------------


def inputs_to_model_device() -> Verdict:
    """Forward and generate() give two texts; with the embedding on a real device the same line works."""
    with get("input-on-meta").run() as stage:
        texts = {"forward": _first_line(stage.error), "generate()": ""}
        ids = token_ids().to(stage.model.device)
        try:
            stage.model.generate(ids, max_new_tokens=2)
        except Exception as error:
            texts["generate()"] = _first_line(error)
    right = not _text_of(lambda: _run_on_model_device(device_map="auto", hardware=_ONE_GPU))
    return Verdict("true" if any(HEADLINE in text for text in texts.values()) else "false",
                   "with the embedding offloaded it fails with other texts: "
                   + "; ".join(f"{call}: {text}" for call, text in texts.items())
                   + f"; with the embedding on a device it {'works' if right else 'fails'}.")  # fmt: skip


def called_while_loading() -> Verdict:
    """from_pretrained hands the model out when it is whole; a model that is built empty and filled later is not."""
    import torch
    from accelerate import init_empty_weights
    from accelerate.utils import set_module_tensor_to_device
    from transformers import AutoConfig, AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(samples.path("tiny"))
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(samples.path("tiny")))
    values, said = list(whole.state_dict().items()), ""
    for count, (name, value) in enumerate(values):
        set_module_tensor_to_device(model, name, "cpu", value)
        if count == len(values) // 2:
            with torch.no_grad():
                said = _text_of(lambda: model(token_ids()))
    answer = "only when it can be called before it is whole" if HEADLINE in said else "false"
    return Verdict(answer, f"from_pretrained returns a whole model; one that was built empty and is half filled fails "
                   f"with {said or 'nothing'}.")  # fmt: skip


def partial_load_without_bitsandbytes() -> Verdict:
    code = (
        "import importlib.metadata as m, importlib.util as u\n"
        "find, version = u.find_spec, m.version\n"
        "def no(f):\n"
        "    def g(name, *a):\n"
        "        if name == 'bitsandbytes': raise m.PackageNotFoundError(name)\n"
        "        return f(name, *a)\n"
        "    return g\n"
        "u.find_spec = lambda n, *a: None if n == 'bitsandbytes' else find(n, *a)\n"
        "m.version = no(version)\n"
        "from transformers import AutoModelForCausalLM, BitsAndBytesConfig\n"
        "from diag.loading import samples\n"
        "try:\n"
        "    AutoModelForCausalLM.from_pretrained(str(samples.path('tiny')),"
        " quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map={'': 'cpu'})\n"
        "    print('loaded')\n"
        "except Exception as e: print(type(e).__name__, str(e).splitlines()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    return Verdict("true" if said == "loaded" else "false", f"it is refused before a weight is read: {said}")


def retries_in_another_dtype() -> Verdict:
    from diag.diagnosis.engine import diagnose
    from diag.loading.recipe import load

    too_small: Any = "600KiB+8GiB"
    first = load(LoadSpec("tiny", device_map="single", hardware=too_small))
    first_error = type(first.error).__name__ if first.error else "no error"
    del first
    gc.collect()
    second = load(LoadSpec("tiny", device_map="none", dtype="bfloat16"))
    found = diagnose(second.model)
    whole = second.error is None and not len(found)
    return Verdict("false" if whole else "true", f"after {first_error} the second load in bfloat16 is "
                   f"{'whole: nothing is found on it' if whole else 'not whole'}.")  # fmt: skip


def several_threads_call_at_once() -> Verdict:
    from diag.loading.recipe import load

    model = load(LoadSpec("tiny", device_map="disk")).model
    right = logits(model)
    bad: list[str] = []

    def call(_: int) -> None:
        try:
            if not bool((logits(model, token_ids()) == right).all()):
                bad.append("a wrong answer")
        except Exception as error:
            bad.append(f"{type(error).__name__}: {error}".splitlines()[0])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(64)))
    after = "right" if bool((logits(model) == right).all()) else "wrong"
    if not bad:
        return Verdict("false", "64 calls from 8 threads on an offloaded model all answered right.")
    return Verdict("true", f"{len(bad)} of 64 calls from 8 threads on one offloaded model failed, for example with "
                   f"{bad[0]}; called alone afterwards it is {after}.")  # fmt: skip


def several_threads_load_at_once() -> Verdict:
    text = _error_of("concurrent-load")
    return Verdict("only when one of them uses accelerate's init_empty_weights()", f"then the other fails with {text}")


# --- quick fixes -------------------------------------------------------------------------------------------------


def _quick_fix(fix: str, situation: str) -> Claim:
    tries = quickfixes.tries_of(fix, situation)
    kept = fix.startswith("Dropping") and situation == "offloaded"

    def settle() -> Verdict:
        answer, because = quickfixes.verdict_over(tries)
        return Verdict(
            answer, f"with the call: {_error_of('moved-after-dispatch')}; without: {because}" if kept else because
        )

    shown = "moved-after-dispatch" if kept else tries[0].call
    return Claim(f"{fix} fixes it: {situation}", settle, shown, kind="quick fix")


# --- the web's advice --------------------------------------------------------------------------------------------


def move_to_device() -> Verdict:
    text = _error_of("moved-after-dispatch/cpu")
    return Verdict("only when nothing is offloaded", f"on an offloaded model it fails: {text}")


def to_empty() -> Verdict:
    with get("uninitialised-values").run() as stage:
        return Verdict("false" if stage.is_wrong else "true", f"no error is left, and {stage.played[-1].shows}")


def any_meta_parameter_is_broken() -> Verdict:
    from diag.loading.recipe import load

    model = load(LoadSpec("tiny", device_map="offload")).model
    meta = sum(p.is_meta for p in model.parameters())
    right = _no_problem(device_map="offload")
    return Verdict("false" if right else "true",
                   f"{meta} parameters of a healthy offloaded model are on meta, and it is proved right.")  # fmt: skip


CLAIMS = (
    Claim("Mixing inputs.to(model.device) with device_map='auto' gave the reported text", inputs_to_model_device,
          "input-on-meta"),
    Claim("A partial 4-bit load without bitsandbytes leaves meta tensors", partial_load_without_bitsandbytes,
          "from_pretrained('tiny', quantization_config=BitsAndBytesConfig(load_in_4bit=True)), without bitsandbytes"),
    Claim("Retrying in another dtype leaves an incomplete module", retries_in_another_dtype,
          "out-of-memory"),
    Claim("Several threads that call one offloaded model at once break it", several_threads_call_at_once,
          "concurrent-calls"),
    Claim("Loading from several threads at once leaves meta tensors", several_threads_load_at_once, "concurrent-load"),
    Claim("A call that comes while the model is still loading gives the reported text", called_while_loading,
          "never-materialised"),
    *(_quick_fix(fix, situation) for fix in quickfixes.FIXES for situation in quickfixes.SITUATIONS),
    Claim(".to('cuda') puts everything in place", move_to_device, "moved-after-dispatch/cpu", kind="web advice"),
    Claim("to_empty() repairs meta tensors", to_empty, "uninitialised-values", kind="web advice"),
    Claim("any(p.is_meta) tells broken models from healthy ones", any_meta_parameter_is_broken, "hooks-removed",
          kind="web advice"),
)  # fmt: skip
