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

from diag.reproduce import get
from diag.reproduce.common import logits, token_ids
from diag.spec import LoadSpec

HEADLINE = "is not on the expected device meta"
_ONE_GPU, _TWO_GPUS = "300MiB+8GiB", "2x300MiB+8GiB"


@dataclass(frozen=True)
class Claim:
    """A sentence that was said, how it is settled, and the scenario that shows it."""

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


def _error_of(scenario: str) -> str:
    with get(scenario).run() as stage:
        return f"{type(stage.error).__name__}: {stage.error}".splitlines()[0] if stage.error else ""


def _loads_and_is_right(**values: Any) -> str:
    """Empty when this load is proved; otherwise what happened."""
    from diag.loading import load
    from diag.proof import prove

    outcome = load(LoadSpec("tiny", **values))
    if outcome.model is None:
        return f"{type(outcome.error).__name__}: {outcome.error}".splitlines()[0]
    proof = prove(outcome.model, outcome.spec)
    return "" if proof.proved else str(proof)


def _over(**cases: dict[str, Any]) -> dict[str, str]:
    return {name.replace("_", " "): _loads_and_is_right(**values) for name, values in cases.items()}


def _verdict_over(results: dict[str, str]) -> Verdict:
    good, bad = [n for n, r in results.items() if not r], [f"{n}: {r}" for n, r in results.items() if r]
    if not bad:
        return Verdict("true", f"right on {', '.join(good)}.")
    answer = f"only when {' or '.join(good)}" if good else "false"
    return Verdict(answer, f"right on {', '.join(good) or 'none'}; {'; '.join(bad)}.")


# --- causes that were named ------------------------------------------------------------------------------------


def inputs_to_model_device() -> Verdict:
    text = _error_of("input-on-meta")
    return Verdict("true" if HEADLINE in text else "false", f"it fails with another text: {text}")


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
        "from diag import samples\n"
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
    from diag.loading import load

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
    from diag.loading import load

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


def single() -> Verdict:
    return _verdict_over(_over(
        one_GPU={"device_map": "single", "hardware": _ONE_GPU},
        two_GPUs={"device_map": "single", "hardware": _TWO_GPUS},
        quantized={"device_map": "single", "quantization": "nf4", "hardware": _ONE_GPU},
        a_GPU_that_is_too_small={"device_map": "single", "hardware": "600KiB+8GiB"},
    ))  # fmt: skip


def no_quantization() -> Verdict:
    return _verdict_over(_over(
        auto_on_one_GPU={"device_map": "auto", "hardware": _ONE_GPU},
        offloaded={"device_map": "offload", "hardware": _ONE_GPU},
        quantized_and_offloaded={"device_map": "offload", "quantization": "nf4", "hardware": _ONE_GPU},
    ))  # fmt: skip


def no_map() -> Verdict:
    return _verdict_over(_over(
        one_GPU={"device_map": "none", "hardware": _ONE_GPU},
        two_GPUs={"device_map": "none", "hardware": _TWO_GPUS},
        quantized={"device_map": "none", "quantization": "nf4", "hardware": _ONE_GPU},
    ))  # fmt: skip


def drop_the_manual_move() -> Verdict:
    kept = _error_of("moved-after-dispatch")
    dropped = _over(offloaded={"device_map": "offload"}, all_on_disk={"device_map": {"": "disk"}})
    verdict = _verdict_over(dropped)
    return Verdict(verdict.answer, f"with the call: {kept}; without it: {verdict.because}")


# --- the web's advice --------------------------------------------------------------------------------------------


def move_to_device() -> Verdict:
    text = _error_of("moved-after-dispatch/cpu")
    return Verdict("only when nothing is offloaded", f"on an offloaded model it fails: {text}")


def to_empty() -> Verdict:
    with get("uninitialised-values").run() as stage:
        return Verdict("false" if stage.is_wrong else "true", f"no error is left, and {stage.played[-1].shows}")


def any_meta_parameter_is_broken() -> Verdict:
    from diag.loading import load

    model = load(LoadSpec("tiny", device_map="offload")).model
    meta = sum(p.is_meta for p in model.parameters())
    problem = _loads_and_is_right(device_map="offload")
    return Verdict("true" if problem else "false",
                   f"{meta} parameters of a healthy offloaded model are on meta, and it is proved right.")  # fmt: skip


CLAIMS = (
    Claim("Mixing inputs.to(model.device) with device_map='auto' gave the reported text", inputs_to_model_device,
          "input-on-meta"),
    Claim("A partial 4-bit load without bitsandbytes leaves meta tensors", partial_load_without_bitsandbytes),
    Claim("Retrying in another dtype leaves an incomplete module", retries_in_another_dtype),
    Claim("Several threads that call one offloaded model at once break it", several_threads_call_at_once,
          "concurrent-calls"),
    Claim("Loading from several threads at once leaves meta tensors", several_threads_load_at_once, "concurrent-load"),
    Claim("DEVICE_MAP=single fixes it", single, kind="quick fix"),
    Claim("Removing QUANTIZE or installing bitsandbytes fixes it", no_quantization, "quantized-offload-refused",
          kind="quick fix"),
    Claim("DEVICE_MAP=none fixes it", no_map, kind="quick fix"),
    Claim("Dropping the manual .to(...) fixes it", drop_the_manual_move, "moved-after-dispatch", kind="quick fix"),
    Claim(".to('cuda') puts everything in place", move_to_device, "moved-after-dispatch/cpu", kind="web advice"),
    Claim("to_empty() repairs meta tensors", to_empty, "uninitialised-values", kind="web advice"),
    Claim("any(p.is_meta) tells broken models from healthy ones", any_meta_parameter_is_broken, "hooks-removed",
          kind="web advice"),
)  # fmt: skip
