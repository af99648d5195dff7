"""The claims of the first analysis and the web's usual advice, each settled by running it.

The answers are `true`, `false` or `only when …`. They are computed from what happens, so that a new version of a
library that changes an answer changes the table.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diag.loading import samples
from diag.reproduce import quickfixes
from diag.reproduce.common import logits, token_ids
from diag.reproduce.quickfixes import ROOM, SMALL, Settled, problem_of
from diag.reproduce.scenario import Scenario
from diag.reproduce.scenarios import (
    concurrent_calls,
    concurrent_load,
    hooks_removed,
    input_on_meta,
    moved_after_dispatch,
    never_materialised,
    out_of_memory,
    uninitialised_values,
)
from diag.values.hardware import Hardware
from diag.values.spec import LoadSpec
from diag.values.text import error_line

if TYPE_CHECKING:
    import pandas as pd

HEADLINE = "is not on the expected device meta"


@dataclass(frozen=True)
class Claim:
    """A sentence that was said, how it is settled, and the scenario or the call that shows it."""

    says: str
    settle: Callable[[], Settled]
    scenario: str
    kind: str = "cause"


def table() -> pd.DataFrame:
    """Runs every claim: a DataFrame with kind, claim, verdict, because, scenario and the versions it ran on."""
    import pandas as pd

    rows = []
    for claim in CLAIMS:
        settled = claim.settle()
        gc.collect()
        rows.append((claim.kind, claim.says, settled.answer, settled.because, claim.scenario, versions()))
    return pd.DataFrame(rows, columns=["kind", "claim", "verdict", "because", "scenario", "versions"])


def versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate"))


def _error_of(call: Callable[[], object]) -> str:
    """The first line of what a call raises; empty where it raises nothing."""
    try:
        call()
    except Exception as error:
        return error_line(error)
    return ""


def _error_in(scenario: Scenario) -> str:
    with scenario.run() as stage:
        return error_line(stage.error)


# --- causes that were named ------------------------------------------------------------------------------------


def inputs_to_model_device() -> Settled:
    """Forward and generate() give two texts; with the embedding on a real device the same line works."""
    from diag.loading.recipe import load

    with input_on_meta.SCENARIO.run() as stage:
        ids = token_ids().to(stage.model.device)
        generating = _error_of(lambda: stage.model.generate(ids, max_new_tokens=2))
        texts = {"forward": error_line(stage.error), "generate()": generating}
    model = load(LoadSpec("tiny", "auto", hardware=Hardware.parse(ROOM))).model
    works = not _error_of(lambda: model(token_ids().to(model.device)))
    said = "; ".join(f"{call}: {text}" for call, text in texts.items())
    return Settled(
        "true" if any(HEADLINE in text for text in texts.values()) else "false",
        f"with the embedding offloaded it fails with other texts: {said}; "
        f"with the embedding on a device it {'works' if works else 'fails'}.",
    )


def called_while_loading() -> Settled:
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
                said = _error_of(lambda: model(token_ids()))
    answer = "only when it can be called before it is whole" if HEADLINE in said else "false"
    half_filled = f"one that was built empty and is half filled fails with {said or 'nothing'}."
    return Settled(answer, f"from_pretrained returns a whole model; {half_filled}")


def partial_load_without_bitsandbytes() -> Settled:
    """Loads in a process of its own, in which bitsandbytes can't be found."""
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
        "import sys\n"
        "from transformers import AutoModelForCausalLM, BitsAndBytesConfig\n"
        "try:\n"
        "    AutoModelForCausalLM.from_pretrained(sys.argv[1],"
        " quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map={'': 'cpu'})\n"
        "    print('loaded')\n"
        "except Exception as e: print(type(e).__name__, str(e).splitlines()[0])\n"
    )
    command = [sys.executable, "-c", code, str(samples.path("tiny"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    return Settled("true" if said == "loaded" else "false", f"it is refused before a weight is read: {said}")


def retries_in_another_dtype() -> Settled:
    from diag.diagnosis.engine import diagnose
    from diag.loading.recipe import load

    first = load(LoadSpec("tiny", "single", hardware=Hardware.parse(SMALL)))
    first_error = type(first.error).__name__ if first.error else "no error"
    del first
    gc.collect()
    second = load(LoadSpec("tiny", "none", dtype="bfloat16"))
    whole = second.error is None and not len(diagnose(second.model))
    state = "whole: nothing is found on it" if whole else "not whole"
    return Settled("false" if whole else "true", f"after {first_error} the second load in bfloat16 is {state}.")


def several_threads_call_at_once() -> Settled:
    from diag.loading.recipe import load

    model = load(LoadSpec("tiny", "disk")).model
    right = logits(model)
    bad: list[str] = []

    def call(_: int) -> None:
        try:
            if not bool((logits(model) == right).all()):
                bad.append("a wrong answer")
        except Exception as error:
            bad.append(error_line(error))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(64)))
    after = "right" if bool((logits(model) == right).all()) else "wrong"
    if not bad:
        return Settled("false", "64 calls from 8 threads on an offloaded model all answered right.")
    failed = f"{len(bad)} of 64 calls from 8 threads on one offloaded model failed, for example with {bad[0]}"
    return Settled("true", f"{failed}; called alone afterwards it is {after}.")


def several_threads_load_at_once() -> Settled:
    text = _error_in(concurrent_load.SCENARIO)
    return Settled("only when one of them uses accelerate's init_empty_weights()", f"then the other fails with {text}")


# --- quick fixes -------------------------------------------------------------------------------------------------


def _quick_fix(fix: str, situation: str) -> Claim:
    tries = quickfixes.tries_of(fix, situation)
    says = f"{fix} fixes it: {situation}"
    if (fix, situation) != (quickfixes.DROP_TO, "offloaded"):
        return Claim(says, lambda: quickfixes.verdict_over(tries), tries[0].call, kind="quick fix")
    fails_before = moved_after_dispatch.TO

    def settle() -> Settled:
        answer, because = quickfixes.verdict_over(tries)
        return Settled(answer, f"with the call: {_error_in(fails_before)}; without: {because}")

    return Claim(says, settle, fails_before.name, kind="quick fix")


# --- the web's advice --------------------------------------------------------------------------------------------


def move_to_device() -> Settled:
    text = _error_in(moved_after_dispatch.CPU)
    return Settled("only when nothing is offloaded", f"on an offloaded model it fails: {text}")


def to_empty() -> Settled:
    with uninitialised_values.TO_EMPTY.run() as stage:
        return Settled("false" if stage.is_wrong else "true", f"no error is left, and {stage.played[-1].shows}")


def any_meta_parameter_is_broken() -> Settled:
    from diag.loading.recipe import load

    spec = LoadSpec("tiny", "offload")
    meta = sum(p.is_meta for p in load(spec).model.parameters())
    problem = problem_of(spec)
    proof = f"it is {problem}" if problem else "it is proved right."
    return Settled("true" if problem else "false", f"{meta} parameters of an offloaded model are on meta, and {proof}")


CLAIMS = (
    Claim(
        "Mixing inputs.to(model.device) with device_map='auto' gave the reported text",
        inputs_to_model_device,
        input_on_meta.SCENARIO.name,
    ),
    Claim(
        "A partial 4-bit load without bitsandbytes leaves meta tensors",
        partial_load_without_bitsandbytes,
        "from_pretrained('tiny', quantization_config=BitsAndBytesConfig(load_in_4bit=True)), without bitsandbytes",
    ),
    Claim(
        "Retrying in another dtype leaves an incomplete module", retries_in_another_dtype, out_of_memory.SCENARIO.name
    ),
    Claim(
        "Several threads that call one offloaded model at once break it",
        several_threads_call_at_once,
        concurrent_calls.SCENARIO.name,
    ),
    Claim(
        "Loading from several threads at once leaves meta tensors",
        several_threads_load_at_once,
        concurrent_load.SCENARIO.name,
    ),
    Claim(
        "A call that comes while the model is still loading gives the reported text",
        called_while_loading,
        never_materialised.EMPTY_CONTEXT.name,
    ),
    *(_quick_fix(fix, situation) for fix in quickfixes.FIXES for situation in quickfixes.SITUATIONS),
    Claim(".to('cuda') puts everything in place", move_to_device, moved_after_dispatch.CPU.name, kind="web advice"),
    Claim("to_empty() repairs meta tensors", to_empty, uninitialised_values.TO_EMPTY.name, kind="web advice"),
    Claim(
        "any(p.is_meta) tells broken models from healthy ones",
        any_meta_parameter_is_broken,
        hooks_removed.SCENARIO.name,
        kind="web advice",
    ),
)
