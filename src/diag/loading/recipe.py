"""load(spec): from the spec to a plan, from the plan to a model. The only from_pretrained on the user's path."""

import contextlib
import inspect
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn

from diag.errors import DiagError, LoaderError, SpecError
from diag.loading.needs import check_adapter, check_needs
from diag.loading.notes import collecting
from diag.loading.origin import LOADED_FROM, Made
from diag.loading.planning import Memory, Plan, plan_load
from diag.loading.quantizer_config import known_refusal
from diag.machine import processes as posix
from diag.machine.accelerators import accelerator_peaks, reset_peaks
from diag.values.functions import import_function
from diag.values.outcome import LoadOutcome
from diag.values.spec import LoadSpec

_GIVEN_TO_LOADERS = ("device_map", "quantization_config", "max_memory", "offload_folder")


def load(spec: LoadSpec, *, free_memory: Memory | None = None) -> LoadOutcome:
    """Loads one model as the spec says; a failure is an outcome with an `error`, not an exception.

    `free_memory` (bytes by device index or "cpu") stands in for asking the machine, so that many loads plan alike.
    What can be known beforehand is checked before any weight is read and comes back as a DiagError. Without an
    `offload_folder`, what needs disk gets a private temporary folder that lives as long as the model. Raises
    SpecError for anything that is no LoadSpec; KeyboardInterrupt passes through.

    >>> load(LoadSpec("tiny", device_map="cpu")).ok
    True
    """
    if not isinstance(spec, LoadSpec):
        raise SpecError(
            f"load takes a LoadSpec, not a {type(spec).__name__}.",
            why="a spec is checked once and can be a key.",
            next_step="diag.load(diag.LoadSpec('tiny', device_map='auto')).",
        )
    notes: list[str] = []
    with collecting(notes):
        try:
            plan = plan_load(spec, free_memory)
            check_needs(plan)
        except Exception as error:
            outcome = LoadOutcome(spec, error=error)
        else:
            outcome = _carry_out(plan, notes)
    return replace(outcome, notes=tuple(notes))


def load_planned(plan: Plan) -> LoadOutcome:
    """The second half of `load`: reads the weights of a plan, whose needs are not checked."""
    notes: list[str] = []
    with collecting(notes):
        outcome = _carry_out(plan, notes)
    return replace(outcome, notes=tuple(notes))


def _carry_out(plan: Plan, notes: list[str]) -> LoadOutcome:
    """Reads the weights of a plan and puts the adapter on; `seconds` are without the adapter."""
    spec, folder, arguments = plan.spec, plan.spec.offload_folder, dict(plan.arguments)
    error: Exception | None = None
    info: Mapping[str, Iterable[object]] = {}
    reset_peaks()
    posix.reset_peak_host_bytes()
    before, start = posix.host_bytes(), time.perf_counter()
    with contextlib.ExitStack() as cleanup:
        if folder is None and (plan.needs_disk or spec.loader is not None):
            folder = cleanup.enter_context(_private_folder())
        if folder is not None:
            arguments["offload_folder"] = folder
        try:
            if plan.model_class is None:
                model = _from_own_loader(plan, arguments)
            else:
                arguments["output_loading_info"] = True
                model, info = plan.model_class.from_pretrained(str(plan.checkpoint.folder), **arguments)
            seconds = time.perf_counter() - start
            if spec.adapter is not None:
                model = _with_adapter(plan, model)
            weakref.finalize(model, cleanup.pop_all().close)  # the private folder lives as long as the model
            LOADED_FROM[model] = Made(spec, plan.checkpoint)
        except Exception as raised:
            model, info, seconds = None, {}, time.perf_counter() - start
            error = _named(raised, plan, notes)
    peaks = {"cpu": max(0, posix.peak_host_bytes() - before), **accelerator_peaks()}
    return LoadOutcome(
        spec,
        model,
        error,
        seconds,
        peaks,
        resolved_map=plan.resolved_map,
        missing_keys=tuple(sorted(map(_key_name, info.get("missing_keys") or ()))),
        unexpected_keys=tuple(sorted(map(_key_name, info.get("unexpected_keys") or ()))),
        mismatched_keys=tuple(sorted(map(_key_name, info.get("mismatched_keys") or ()))),
    )


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="diag-offload-", ignore_cleanup_errors=True)


def _key_name(key: object) -> str:
    """A mismatched key comes with its two shapes."""
    return str(key[0] if isinstance(key, tuple) else key)


def _from_own_loader(plan: Plan, arguments: Mapping[str, object]) -> nn.Module:
    """What the user's own loader returns. Raises LoaderError where it can't be called so, or returns something else."""
    name = str(plan.spec.loader)
    function = import_function(name, "loader")
    given = {argument: arguments.get(argument) for argument in _GIVEN_TO_LOADERS}
    _check_takes(function, given, name)
    try:
        model = function(**given)
    except ValueError as e:
        known = known_refusal(plan.spec, plan.config, e)
        if known is None:
            raise
        raise known from e
    if not isinstance(model, nn.Module):
        raise LoaderError(
            f"the loader {name!r} returned a {type(model).__name__}.",
            why="a loader returns the loaded model, a torch module.",
            next_step="return the model itself, not a pipeline, tuple or None.",
        )
    return model


def _check_takes(function: Callable[..., object], given: Mapping[str, object], name: str) -> None:
    try:
        inspect.signature(function).bind(**given)
    except TypeError as e:
        raise LoaderError(
            f"the loader {name!r} can't be called with what a loader is given.",
            why=f"{e}; it is given {', '.join(given)}, by name.",
            next_step="def load(device_map=None, quantization_config=None, **kwargs): … return model.",
        ) from e
    except ValueError:
        pass  # a built-in that does not tell its signature: the call itself will show


def _with_adapter(plan: Plan, model: nn.Module) -> nn.Module:
    placed = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    check_adapter(plan.spec, "disk" in placed)  # a user's loader may have put there what was not asked for
    try:
        import peft
    except ImportError as e:
        raise DiagError("adapter= needs peft.", why=str(e), next_step="pip install peft.") from e
    limits = {name: value for name, value in plan.arguments.items() if name == "max_memory"}
    return peft.PeftModel.from_pretrained(model, str(plan.spec.adapter), **limits)


def _named(error: Exception, plan: Plan, notes: list[str]) -> Exception:
    """The error with a note that names the model; for a hidden out-of-memory error that one, caused by this one."""
    hidden = _hidden_out_of_memory(error, notes)
    if hidden is not None:
        hidden.__cause__ = error
        error = hidden
    error.add_note(f"while loading {plan.spec!r}")
    return error


def _hidden_out_of_memory(error: Exception, notes: list[str]) -> Exception | None:
    """A device that ran out of memory while weights were converted (experts stacked, say).

    transformers keeps that error's text in its loading report and raises another without a cause
    (core_model_loading.py and utils/loading_report.py, 5.23.0).
    """
    if "automatic conversion" not in str(error):
        return None
    lines = (line.strip() for note in notes for line in note.splitlines())
    found = next((line for line in lines if "out of memory. Tried to allocate" in line), None)
    return None if found is None else torch.OutOfMemoryError(found.partition("OutOfMemoryError: ")[2] or found)
