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
from importlib.metadata import version
from typing import TYPE_CHECKING

from diag.loading import samples
from diag.reproduce.common import error_of, logits, token_ids
from diag.reproduce.quickfixes import DROP_TO, FIXES, ROOM, SITUATIONS, SMALL, Settled, problem_of, verdict_over
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


def claim(says: str, scenario: str, kind: str = "cause") -> Callable[[Callable[[], Settled]], Claim]:
    """Makes a claim of the function that settles it."""
    return lambda settle: Claim(says, settle, scenario, kind)


def table() -> pd.DataFrame:
    """Runs every claim: a DataFrame with kind, claim, verdict, because, scenario and the versions it ran on."""
    import pandas as pd

    rows, libraries = [], ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate"))
    for one in CLAIMS:
        answer, because = one.settle()
        gc.collect()
        rows.append((one.kind, one.says, answer, because, one.scenario, libraries))
    return pd.DataFrame(rows, columns=["kind", "claim", "verdict", "because", "scenario", "versions"])


def _error_in(scenario: Scenario) -> str:
    with scenario.run() as stage:
        return error_line(stage.error)


# --- causes that were named ------------------------------------------------------------------------------------


@claim("Mixing inputs.to(model.device) with device_map='auto' gave the reported text", input_on_meta.SCENARIO.name)
def inputs_to_model_device() -> Settled:
    """Forward and generate() give two texts; with the embedding on a real device the same line works."""
    from diag.loading.recipe import load

    with input_on_meta.SCENARIO.run() as stage:
        ids = token_ids().to(stage.model.device)
        generating = error_of(lambda: stage.model.generate(ids, max_new_tokens=2))
        said = f"forward: {error_line(stage.error)}; generate(): {generating}"
    model = load(LoadSpec("tiny", "auto", hardware=Hardware.parse(ROOM))).model
    works = "fails" if error_of(lambda: model(token_ids().to(model.device))) else "works"
    offloaded = f"with the embedding offloaded it fails with other texts: {said}"
    because = f"{offloaded}; with the embedding on a device it {works}."
    return Settled("true" if HEADLINE in said else "false", because)


@claim(
    "A call that comes while the model is still loading gives the reported text", never_materialised.EMPTY_CONTEXT.name
)
def called_while_loading() -> Settled:
    """from_pretrained hands the model out when it is whole; a model that is built empty and filled later is not."""
    from accelerate import init_empty_weights
    from accelerate.utils import set_module_tensor_to_device
    from transformers import AutoConfig, AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(samples.path("tiny"))
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(samples.path("tiny")))
    values = list(whole.state_dict().items())
    for name, value in values[: len(values) // 2 + 1]:
        set_module_tensor_to_device(model, name, "cpu", value)
    said = error_of(logits, model)
    answer = "only when it can be called before it is whole" if HEADLINE in said else "false"
    half_filled = f"one that was built empty and is half filled fails with {said or 'nothing'}."
    return Settled(answer, f"from_pretrained returns a whole model; {half_filled}")


_REFUSED_LOAD = """
import importlib.metadata as metadata, importlib.util as util, sys
find_spec, version = util.find_spec, metadata.version
def version_but_one(name):
    if name == "bitsandbytes":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = version_but_one
util.find_spec = lambda name, *more: None if name == "bitsandbytes" else find_spec(name, *more)
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
try:
    config = BitsAndBytesConfig(load_in_4bit=True)
    AutoModelForCausalLM.from_pretrained(sys.argv[1], quantization_config=config, device_map={"": "cpu"})
    print("loaded")
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0])
"""


@claim(
    "A partial 4-bit load without bitsandbytes leaves meta tensors",
    "from_pretrained('tiny', quantization_config=BitsAndBytesConfig(load_in_4bit=True)), without bitsandbytes",
)
def partial_load_without_bitsandbytes() -> Settled:
    """Loads in a process of its own, in which bitsandbytes can't be found."""
    command = [sys.executable, "-c", _REFUSED_LOAD, str(samples.path("tiny"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    return Settled("true" if said == "loaded" else "false", f"it is refused before a weight is read: {said}")


@claim("Retrying in another dtype leaves an incomplete module", out_of_memory.SCENARIO.name)
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


@claim("Several threads that call one offloaded model at once break it", concurrent_calls.SCENARIO.name)
def several_threads_call_at_once() -> Settled:
    from diag.loading.recipe import load

    model = load(LoadSpec("tiny", "disk")).model
    right = logits(model)

    def problem(_: int) -> str:
        try:
            return "" if logits(model).equal(right) else "a wrong answer"
        except Exception as error:
            return error_line(error)

    with ThreadPoolExecutor(8) as pool:
        bad = [text for text in pool.map(problem, range(64)) if text]
    after = "right" if logits(model).equal(right) else "wrong"
    if not bad:
        return Settled("false", "64 calls from 8 threads on an offloaded model all answered right.")
    failed = f"{len(bad)} of 64 calls from 8 threads on one offloaded model failed, for example with {bad[0]}"
    return Settled("true", f"{failed}; called alone afterwards it is {after}.")


@claim("Loading from several threads at once leaves meta tensors", concurrent_load.SCENARIO.name)
def several_threads_load_at_once() -> Settled:
    text = _error_in(concurrent_load.SCENARIO)
    return Settled("only when one of them uses accelerate's init_empty_weights()", f"then the other fails with {text}")


# --- quick fixes -------------------------------------------------------------------------------------------------


def _quick_fix(fix: str, situation: str) -> Claim:
    tries, fails_before = FIXES[fix](situation), moved_after_dispatch.TO
    is_shown = (fix, situation) == (DROP_TO, "offloaded")  # by a scenario: the call that is dropped

    def settle() -> Settled:
        settled = verdict_over(tries)
        if not is_shown:
            return settled
        return Settled(settled.answer, f"with the call: {_error_in(fails_before)}; without: {settled.because}")

    shown_by = fails_before.name if is_shown else tries[0].call
    return Claim(f"{fix} fixes it: {situation}", settle, shown_by, kind="quick fix")


# --- the web's advice --------------------------------------------------------------------------------------------


@claim(".to('cuda') puts everything in place", moved_after_dispatch.CPU.name, "web advice")
def move_to_device() -> Settled:
    text = _error_in(moved_after_dispatch.CPU)
    return Settled("only when nothing is offloaded", f"on an offloaded model it fails: {text}")


@claim("to_empty() repairs meta tensors", uninitialised_values.TO_EMPTY.name, "web advice")
def to_empty() -> Settled:
    with uninitialised_values.TO_EMPTY.run() as stage:
        return Settled("false" if stage.is_wrong else "true", f"no error is left, and {stage.played[-1].shows}")


@claim("any(p.is_meta) tells broken models from healthy ones", hooks_removed.SCENARIO.name, "web advice")
def any_meta_parameter_is_broken() -> Settled:
    from diag.loading.recipe import load

    spec = LoadSpec("tiny", "offload")
    meta = sum(p.is_meta for p in load(spec).model.parameters())
    problem = problem_of(spec)
    proof = f"it is {problem}" if problem else "it is proved right."
    return Settled("true" if problem else "false", f"{meta} parameters of an offloaded model are on meta, and {proof}")


CLAIMS = (
    inputs_to_model_device,
    partial_load_without_bitsandbytes,
    retries_in_another_dtype,
    several_threads_call_at_once,
    several_threads_load_at_once,
    called_while_loading,
    *(_quick_fix(fix, situation) for fix in FIXES for situation in SITUATIONS),
    move_to_device,
    to_empty,
    any_meta_parameter_is_broken,
)
