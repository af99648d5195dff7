"""In a cell: what is wrong with the model that a loader returned, by its cause; what an adapter does to the answer."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from diag.proving.comparing import distance
from diag.proving.probing import Answer, ask
from diag.values.spec import LoadSpec


def causes_of(model: Any, error: BaseException | None, spec: LoadSpec) -> tuple[tuple[str, str], ...]:
    """Causes and their titles, the first cause first; empty for a healthy model, and where a diagnosis fails.

    A cell's row must not depend on whether the diagnosis of it works.
    """
    from diag.diagnosis.engine import diagnose

    if model is None and error is None:
        return ()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = diagnose(model, error=error, spec=spec)
    except Exception:
        return ()
    wrong = [one for one in found if one.severity != "info" and one.cause != "unknown"]
    return tuple((one.cause, one.title) for one in wrong)


def never_loaded(model: Any, missing_keys: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The cause behind tensors that the checkpoint lacks and the answer needs; empty where there are none."""
    from diag.diagnosis.causes import get
    from diag.proving.missing import missing_from_body

    cause = "uninitialised-values"
    return ((cause, get(cause).title),) if missing_from_body(model, missing_keys) else ()


def adapter_effect(model: Any, spec: LoadSpec, answer: Answer | None) -> str:
    """One sentence: whether the adapter changes the answer to the probe. Empty without an adapter or an answer."""
    from diag.proving.proof import tokenizer_folder

    if spec.adapter is None or answer is None or answer.problem or not hasattr(model, "disable_adapter"):
        return ""
    try:
        with model.disable_adapter():
            without = ask(model, spec.probe, tokenizer_folder(spec))
    except Exception as error:
        return f"Whether the adapter changes the answer is not known: {type(error).__name__}: {error}"
    if without.outputs.shape != answer.outputs.shape:
        return "The adapter changes the shape of the answer."
    apart = distance(answer.outputs, without.outputs)
    if apart.max_abs_diff == 0:
        return "The adapter changes nothing: with and without it the answer is the same, bit for bit."
    text = " and the generated text" if answer.tokens != without.tokens else ""
    return (
        f"The adapter changes the answer{text}: by up to {apart.max_abs_diff:.3g} (KL {apart.kl_divergence:.3g} nats)."
    )
