"""load(spec): from the spec to a plan, from the plan to a model. The only from_pretrained on the user's path."""

import contextlib
import inspect
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from diag.errors import CheckpointError, CouldNotJudgeError, DiagError, LoaderError, SpecError, UnsupportedError
from diag.loading.footprint import BLOCK, ROWS_TOGETHER
from diag.loading.notes import collecting
from diag.loading.origin import LOADED_FROM, Made
from diag.loading.planning import Memory, Plan, plan_load
from diag.loading.quantizer_config import known_refusal
from diag.machine import processes as posix
from diag.machine.accelerators import accelerator_peaks, reset_peaks
from diag.machine.folders import nearest_existing
from diag.values.functions import import_function
from diag.values.outcome import LoadOutcome
from diag.values.spec import LoadSpec
from diag.values.units import format_size

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+\Z")
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
        what, why = f"load takes a LoadSpec, not a {type(spec).__name__}.", "a spec is checked once and can be a key."
        raise SpecError(what, why=why, next_step="diag.load(diag.LoadSpec('tiny', device_map='auto')).")
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
            own = tempfile.TemporaryDirectory(prefix="diag-offload-", ignore_cleanup_errors=True)
            folder = cleanup.enter_context(own)
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


def _key_name(key: object) -> str:
    """A mismatched key comes with its two shapes."""
    return str(key[0] if isinstance(key, tuple) else key)


def _from_own_loader(plan: Plan, arguments: Mapping[str, object]) -> nn.Module:
    """What the user's own loader returns. Raises LoaderError where it can't be called so, or returns something else."""
    name = str(plan.spec.loader)
    function = import_function(name, "loader")
    given = {argument: arguments.get(argument) for argument in _GIVEN_TO_LOADERS}
    try:
        inspect.signature(function).bind(**given)
    except TypeError as e:
        what = f"the loader {name!r} can't be called with what a loader is given."
        next_step = "def load(device_map=None, quantization_config=None, **kwargs): … return model."
        raise LoaderError(what, why=f"{e}; it is given {', '.join(given)}, by name.", next_step=next_step) from e
    except ValueError:
        pass  # a built-in that does not tell its signature: the call itself will show
    try:
        model = function(**given)
    except ValueError as e:
        known = known_refusal(plan.spec, plan.config, e)
        if known is None:
            raise
        raise known from e
    if not isinstance(model, nn.Module):
        what = f"the loader {name!r} returned a {type(model).__name__}."
        why = "a loader returns the loaded model, a torch module."
        raise LoaderError(what, why=why, next_step="return the model itself, not a pipeline, tuple or None.")
    return model


def _with_adapter(plan: Plan, model: nn.Module) -> nn.Module:
    placed = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    _check_adapter(plan.spec, "disk" in placed)  # a user's loader may have put there what was not asked for
    try:
        import peft
    except ImportError as e:
        raise DiagError("adapter= needs peft.", why=str(e), next_step="pip install peft.") from e
    limits = {name: value for name, value in plan.arguments.items() if name == "max_memory"}
    return peft.PeftModel.from_pretrained(model, str(plan.spec.adapter), **limits)


def _named(error: Exception, plan: Plan, notes: list[str]) -> Exception:
    """The error with a note that names the model; for a hidden out-of-memory error that one, caused by this one.

    Where a device runs out of memory while weights are converted (experts stacked, say), transformers keeps that
    error's text in its loading report and raises another without a cause (core_model_loading.py and
    utils/loading_report.py, 5.23.0).
    """
    lines = (line.strip() for note in notes for line in note.splitlines())
    hidden = next((line for line in lines if "out of memory. Tried to allocate" in line), None)
    if hidden is not None and "automatic conversion" in str(error):
        cause, error = error, torch.OutOfMemoryError(hidden.partition("OutOfMemoryError: ")[2] or hidden)
        error.__cause__ = cause
    error.add_note(f"while loading {plan.spec!r}")
    return error


# --- what a plan needs to be carried out ------------------------------------------------------------------------------


def check_needs(plan: Plan, written: int = 0) -> None:
    """All that a plan needs to be carried out; `written` bytes go to its offload folder. Raises DiagError."""
    unfit = plan.packed.unfit
    if unfit:
        raise UnsupportedError(
            f"{len(unfit)} layers can't be computed in 4 bits on this CPU, {unfit[0]!r} among them.",
            why=f"on a CPU with AVX512-BF16 bitsandbytes needs out_features to be a multiple of {ROWS_TOGETHER} "
            f"and in_features of {BLOCK}, and fails at the first call (_convert_weight_packed_for_cpu in "
            "bitsandbytes/functional.py, 0.50.2).",
            next_step="use int8 or none on this CPU, or a map on an accelerator.",
        )
    _check_adapter(plan.spec, plan.needs_disk)
    if plan.needs_disk:
        check_offload_folder(plan.spec, written)


def _check_adapter(spec: LoadSpec, needs_disk: bool) -> None:
    """Raises CheckpointError for an adapter that is not there, UnsupportedError for one on an offloaded base."""
    if spec.adapter is None:
        return
    folder = Path(spec.adapter)
    if folder.is_dir() and not (folder / "adapter_config.json").is_file():
        what, why = f"{spec.adapter!r} holds no PEFT adapter.", "there is no adapter_config.json in that folder."
        raise CheckpointError(what, why=why, next_step="name the folder that PeftModel.save_pretrained wrote.")
    if not folder.is_dir() and not _HUB_ID.match(spec.adapter):
        what = f"the adapter folder {spec.adapter!r} does not exist."
        next_step = "name the folder that PeftModel.save_pretrained wrote, or a hub id (owner/name)."
        raise CheckpointError(what, why=f"the current folder is {str(Path.cwd())!r}.", next_step=next_step)
    if needs_disk:
        raise UnsupportedError(
            "an adapter on a base that is offloaded to disk is refused.",
            why="PEFT would rewrite the base's own checkpoint files (peft 0.21.2, PeftModel._update_offload).",
            next_step="use a map without disk, or merge the adapter first and load the merged model.",
        )


def check_offload_folder(spec: LoadSpec, nbytes: int = 0) -> None:
    """Raises CouldNotJudgeError where weights that go to disk would not fit, or can't be written.

    `nbytes` is what the load will write: nothing for safetensors, which are read where they are.
    """
    given = spec.offload_folder
    folder = Path(tempfile.gettempdir() if given is None else given)
    name = f"the {'folder for temporary files' if given is None else 'offload folder'} {str(folder)!r}"
    if folder.exists() and not folder.is_dir():
        raise CouldNotJudgeError(f"{name} is a file.", next_step="give a folder as offload_folder.")
    there = nearest_existing(folder)
    try:
        if not os.access(there, os.W_OK):
            raise PermissionError(f"no permission to write to {str(there)!r}")
        tempfile.TemporaryFile(dir=there).close()  # root may write anywhere, and yet not into /proc
    except OSError as e:
        next_step = "give another offload_folder, or change its permissions."
        raise CouldNotJudgeError(f"{name} can't be written to.", why=str(e), next_step=next_step) from e
    free = shutil.disk_usage(there).free
    if free < nbytes:
        raise CouldNotJudgeError(
            f"there is no room in {name}.",
            why=f"{format_size(nbytes)} of weights are written there, and {format_size(free)} are free.",
            next_step="make room, give an offload_folder on another disk, or use safetensors: they are not copied.",
        )
