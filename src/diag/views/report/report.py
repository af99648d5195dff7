"""write_report(): one model under every combination as one HTML file, whatever happens on the way."""

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diag.errors import DiagError, SpecError
from diag.loading.checkpoint import hub
from diag.loading.checkpoint.find import find_checkpoint, is_local
from diag.machine.torch_devices import accelerators
from diag.sweep.results.baseline import read_baseline
from diag.values.spec import PRESETS, LoadSpec, grid
from diag.values.units import format_exact
from diag.views.report.afterwards import ReportResult, Window, finish
from diag.views.report.execute import run_notebook
from diag.views.report.gating import SPEC_OPTIONS, baseline_files
from diag.views.report.notebooks import REPORT, check_names, declared_parameters, find_notebook
from diag.views.wording import THIS_MACHINE

_SIMULATE_UP_TO = 2 * 2**30  # bytes of checkpoint; above, a second machine would take too long by default
_PAGE_SECONDS = 15.0  # kept of a deadline for the page, at most
_SHARE = 0.58  # of the checkpoint on each of two simulated GPUs: one is too small, both together are enough


@dataclass(frozen=True)
class Order:
    """A report that is asked for.

    `out` is the page (default `reports/<model>.html`); beside it go the executed notebook and, by default, `results`.
    `hardware` None means this machine and, where it has no accelerator, a simulated pair of GPUs as well. `timeout` is
    in seconds for each combination, `budget` until no further load begins, `deadline` for the whole run, page included,
    counted from `started` (seconds since the epoch, None is now). `baseline` is a file to hold the rows against,
    `write_baseline` one to keep them in. `options` are the further fields of LoadSpec and arguments of `matrix` that
    `gating` lists, `parameters` further parameters of a notebook of one's own. `say` receives a line for each finished
    combination.
    """

    model: str
    out: str | os.PathLike[str] | None = None
    device_maps: Iterable[object] = PRESETS
    quantizations: Iterable[object] = ("none", "int8", "nf4")
    hardware: Iterable[str] | None = None
    probe: str | None = None
    loader: str | None = None
    adapter: str | None = None
    timeout: float = 600.0
    budget: float | None = None
    max_loads: int | None = None
    deadline: float | None = None
    baseline: str | os.PathLike[str] | None = None
    write_baseline: str | os.PathLike[str] | bool | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    results: str | os.PathLike[str] | None = None
    notebook: str | os.PathLike[str] = REPORT
    parameters: Mapping[str, object] = field(default_factory=dict)
    started: float | None = None
    say: Callable[[str], None] | None = None

    @property
    def page(self) -> Path:
        return Path(self.out) if self.out is not None else Path("reports") / f"{file_name(self.model)}.html"

    @property
    def stored(self) -> Path:
        return Path(self.results) if self.results is not None else self.page.with_suffix(".sqlite")

    def specs(self) -> list[LoadSpec]:
        """The combinations. Raises SpecError for a value that can't be, and where there is none."""
        machines = list(self.hardware) if self.hardware is not None else default_hardware(self.model)
        given = {"probe": self.probe, "loader": self.loader, "adapter": self.adapter}
        own = {name: self.options[name] for name in SPEC_OPTIONS if name in self.options}
        found = grid(self.model, self.device_maps, self.quantizations, machines, **given, **own)
        if not found:
            raise SpecError("no combination is asked for.", next_step="name at least one device map and quantization.")
        return found

    def values(self, specs: list[LoadSpec], **further: object) -> dict[str, object]:
        """The parameters of the notebook, lists as text; those that only some notebooks take where they are given."""
        first = specs[0]
        lists = {"device_maps": "device_map_text", "quantizations": "quantization", "hardware": "hardware_text"}
        named = {name: list(dict.fromkeys(getattr(spec, field) for spec in specs)) for name, field in lists.items()}
        optional = {"loader": first.loader, "adapter": first.adapter, "options": dict(self.options) or None, **further}
        optional |= {"budget": self.budget, "max_loads": self.max_loads}
        given = {name: value for name, value in optional.items() if value is not None}
        fixed = {"model": first.model, "probe": first.probe, "timeout": self.timeout, "results": str(self.stored)}
        return {**fixed, **named, **given, **self.parameters}


def write_report(model: str, out: str | os.PathLike[str] | None = None, **asked: Any) -> ReportResult:
    """Runs the report notebook and writes the page, the executed notebook, JSON, Markdown and JUnit.

    `asked` are the further fields of Order. What happens inside the run, a dead kernel, the deadline and Ctrl-C
    included, ends in a report that says so and an exit code that tells. Raises DiagError for values or parameters that
    are not valid, before anything runs.
    """
    order = Order(model, out, **asked)
    until = _until(order.deadline, order.started)
    source = find_notebook(os.fspath(order.notebook))
    specs = order.specs()
    old, new = baseline_files(order.baseline, order.write_baseline, str(order.page.with_suffix(".baseline.json")))
    if old is not None:
        read_baseline(old)  # a wrong file is found now, and not after an hour
    declared = declared_parameters(source)
    seconds = _seconds_for_matrix(until) if "deadline" in declared else None
    values = order.values(specs, deadline=seconds, baseline=old, write_baseline=new)
    check_names(values, declared, source.name)
    for file in (order.page, order.stored):
        file.parent.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    left = None if until is None else max(1.0, until - begun)
    run = run_notebook(source, order.page.with_suffix(".ipynb"), values, deadline=left, say=order.say)
    return finish(run, specs, order.page, order.stored, Window(begun))


def _until(deadline: float | None, started: float | None) -> float | None:
    """When the notebook must be over, in seconds since the epoch, so that the page is written before the deadline."""
    begun = time.time() if started is None else started
    return None if deadline is None else begun + deadline - min(_PAGE_SECONDS, 0.2 * deadline)


def _seconds_for_matrix(until: float | None) -> float | None:
    """For how long the matrix may go on, so that what it has is still shown by the rest of the notebook."""
    if until is None:
        return None
    left = until - time.time()
    return max(1.0, left - min(60.0, 0.2 * left))


def default_hardware(model: str) -> list[str]:
    """This machine; where it has no accelerator and the model is small, a simulated pair of GPUs as well.

    Each of the pair holds a little more than half of the checkpoint, so that one is not enough and both are.
    """
    try:
        access = None if is_local(model) else hub.look(model)
        if access is not None and access.folder is None:
            nbytes = access.nbytes  # of what would be downloaded
        else:
            nbytes = find_checkpoint(model if access is None else str(access.folder)).nbytes
    except DiagError:  # the run itself will say what is wrong
        return [THIS_MACHINE]
    if accelerators() or not 0 < nbytes <= _SIMULATE_UP_TO:
        return [THIS_MACHINE]
    return [THIS_MACHINE, f"2x{_round_size(nbytes * _SHARE)}"]


def _round_size(nbytes: float) -> str:
    """Bytes rounded up to two digits of a binary unit.

    >>> _round_size(513 * 2**20 * 0.58)
    '300MiB'
    """
    unit = 2 ** (10 * max(0, int(math.log2(nbytes) // 10)))
    step = 10 ** max(0, math.ceil(math.log10(nbytes / unit)) - 2)
    return format_exact(math.ceil(nbytes / unit / step) * step * unit)


def file_name(model: str) -> str:
    """A model's name as a file name without folders."""
    last = re.split(r"[/\\]+", model.rstrip("/\\"))[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "model"
