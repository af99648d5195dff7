"""load(spec) -> LoadOutcome: the only from_pretrained on the user's path."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diag.errors import DiagError, LoaderError, SpecError
from diag.loading.needs import check_adapter, check_needs
from diag.loading.notes import collecting
from diag.loading.planning import Plan, known_refusal, plan_load
from diag.machine import processes as posix
from diag.machine.audience import bars_only_for_people
from diag.machine.here import accelerator_peaks, reset_peaks
from diag.values.functions import import_function
from diag.values.outcome import LoadOutcome
from diag.values.spec import LoadSpec

_SPECS: weakref.WeakKeyDictionary[Any, LoadSpec] = weakref.WeakKeyDictionary()


@dataclass
class _Loaded:
    model: Any
    info: Mapping[str, Any]


def load(spec: LoadSpec, *, free_memory: Mapping[Any, int] | None = None) -> LoadOutcome:
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
    try:
        with collecting(notes):
            plan = plan_load(spec, free_memory)
            check_needs(plan)
    except Exception as error:
        return LoadOutcome(spec, error=error, notes=tuple(notes))
    return load_planned(plan, notes)


def load_planned(plan: Plan, notes: list[str] | None = None) -> LoadOutcome:
    """The second half of `load`: reads the weights of a plan."""
    notes = [] if notes is None else notes
    folder = _OffloadFolder(plan)
    posix.reset_peak_host_bytes()
    before = posix.host_bytes()
    reset_peaks()
    start = time.perf_counter()
    try:
        with collecting(notes), bars_only_for_people():
            loaded = _read(plan, folder.path)
            seconds = time.perf_counter() - start
            model = _with_adapter(plan, loaded.model)
    except Exception as error:
        folder.remove()
        return LoadOutcome(plan.spec, error=_named(error, plan, notes), seconds=time.perf_counter() - start,
                           peak_bytes=_peaks(before), resolved_map=plan.resolved_map, notes=tuple(notes))  # fmt: skip
    except BaseException:  # an interrupt: nothing half-written may stay behind
        folder.remove()
        raise
    folder.keep_for(model)
    _SPECS[model] = plan.spec
    return LoadOutcome(
        plan.spec,
        model,
        seconds=seconds,
        peak_bytes=_peaks(before),
        resolved_map=plan.resolved_map,
        missing_keys=_keys(loaded.info, "missing_keys"),
        unexpected_keys=_keys(loaded.info, "unexpected_keys"),
        mismatched_keys=_keys(loaded.info, "mismatched_keys"),
        notes=tuple(notes),
    )


def spec_of(model: Any) -> LoadSpec | None:
    """The spec that `load` made this model from, if it did."""
    try:
        return _SPECS.get(model)
    except TypeError:
        return None


def _read(plan: Plan, offload_folder: str | None) -> _Loaded:
    arguments = dict(plan.arguments)
    if offload_folder is not None:
        arguments["offload_folder"] = offload_folder
    if plan.spec.loader is not None:
        return _Loaded(_call_loader(plan, arguments), {})
    assert plan.model_class is not None
    loader: Any = plan.model_class
    model, info = loader.from_pretrained(str(plan.checkpoint.folder), output_loading_info=True, **arguments)
    return _Loaded(model, info)


def _call_loader(plan: Plan, arguments: Mapping[str, Any]) -> torch.nn.Module:
    spec = plan.spec
    function = import_function(spec.loader or "", "loader")
    names = ("device_map", "quantization_config", "max_memory", "offload_folder")
    _check_takes(function, names, spec.loader)
    try:
        model = function(**{name: arguments.get(name) for name in names})
    except ValueError as e:
        known = known_refusal(spec, plan.config, e)
        if known is None:
            raise
        raise known from e
    if not isinstance(model, torch.nn.Module):
        raise LoaderError(
            f"the loader {spec.loader!r} returned a {type(model).__name__}.",
            why="a loader returns the loaded model, a torch module.",
            next_step="return the model itself, not a pipeline, tuple or None.",
        )
    return model


def _check_takes(function: Any, names: tuple[str, ...], reference: str | None) -> None:
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except TypeError as e:
        raise LoaderError(
            f"the loader {reference!r} can't be called with what a loader is given.",
            why=f"{e}; it is given {', '.join(names)}, by name.",
            next_step="def load(device_map=None, quantization_config=None, **kwargs): … return model.",
        ) from e
    except ValueError:
        pass  # a built-in that does not tell its signature: the call itself will show


def _with_adapter(plan: Plan, model: Any) -> Any:
    if plan.spec.adapter is None:
        return model
    placed = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    check_adapter(plan.spec, "disk" in placed)  # a user's loader may have put there what was not asked for
    try:
        import peft
    except ImportError as e:
        raise DiagError("adapter= needs peft.", why=str(e), next_step="pip install peft.") from e
    arguments = {k: v for k, v in plan.arguments.items() if k == "max_memory"}
    return peft.PeftModel.from_pretrained(model, plan.spec.adapter, **arguments)


def _named(error: Exception, plan: Plan, notes: list[str]) -> Exception:
    """Names the model for errors that the libraries leave anonymous; the original stays as it is, or is the cause."""
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


def _peaks(host_before: int) -> dict[str, int]:
    return {"cpu": max(0, posix.peak_host_bytes() - host_before), **accelerator_peaks()}


def _keys(info: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = info.get(name) or ()
    return tuple(sorted(str(key[0] if isinstance(key, tuple) else key) for key in found))


class _OffloadFolder:
    """Where disk-offloaded weights go: the spec's folder, or a private one that goes when the model goes."""

    def __init__(self, plan: Plan) -> None:
        self._private = plan.spec.offload_folder is None and (plan.needs_disk or plan.spec.loader is not None)
        self.path = tempfile.mkdtemp(prefix="diag-offload-") if self._private else plan.spec.offload_folder

    def remove(self) -> None:
        if self._private:
            shutil.rmtree(str(self.path), ignore_errors=True)

    def keep_for(self, model: Any) -> None:
        if self._private:
            weakref.finalize(model, shutil.rmtree, str(self.path), ignore_errors=True)
