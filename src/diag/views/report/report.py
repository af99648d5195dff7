"""write_report(): one model under every combination as one HTML file, whatever happens on the way."""

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from diag.errors import DiagError, SpecError
from diag.sweep.results.baseline import read_baseline
from diag.sweep.results.gate import Gate, gate_of
from diag.values.exits import Exit
from diag.values.spec import PRESETS, LoadSpec, grid
from diag.values.units import format_exact
from diag.views.files import put, redacted, write_notebook, write_text
from diag.views.markup import View
from diag.views.report import endings, gating
from diag.views.report.artefacts import write_summaries
from diag.views.report.convert import death_notice, kept_verdict, to_html
from diag.views.report.execute import Ending, Run, run_notebook
from diag.views.report.leftovers import Window, partial, stored_frame
from diag.views.report.notebooks import REPORT, check_parameters, declared_parameters, find_notebook
from diag.views.wording import THIS_MACHINE

_SIMULATE_UP_TO = 2 * 2**30  # bytes of checkpoint; above, a second machine would take too long by default
_PAGE_SECONDS = 15.0  # kept of a deadline for the page, at most
_MAKE_ROOM = "Next: make room, or give another --out, and run the same command again: it does only what is missing."
_SHARE = 0.58  # of the checkpoint on each of two simulated GPUs: one is too small, both together are enough


@dataclass(frozen=True)
class ReportResult:
    """Where the report is, what it says first, the exit code that goes with it, and what could not be written."""

    path: Path
    notebook: Path
    results: Path
    headline: str
    exit_code: Exit
    ended: Ending
    verdict: Mapping[str, Any] | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        paths = {name: str(getattr(self, name)) for name in ("path", "notebook", "results")}
        values = {"headline": self.headline, "ended": self.ended.to_json(), "verdict": self.verdict}
        return redacted({**paths, **values, "notes": list(self.notes), "exit_code": int(self.exit_code)})


def write_report(
    model: str,
    out: str | os.PathLike[str] | None = None,
    *,
    device_maps: Iterable[Any] = PRESETS,
    quantizations: Iterable[Any] = ("none", "int8", "nf4"),
    hardware: Iterable[str] | None = None,
    probe: str | None = None,
    loader: str | None = None,
    adapter: str | None = None,
    timeout: float = 600.0,
    budget: float | None = None,
    max_loads: int | None = None,
    deadline: float | None = None,
    baseline: str | os.PathLike[str] | None = None,
    write_baseline: str | os.PathLike[str] | bool | None = None,
    options: Mapping[str, Any] | None = None,
    results: str | os.PathLike[str] | None = None,
    notebook: str | os.PathLike[str] = REPORT,
    parameters: Mapping[str, Any] | None = None,
    started: float | None = None,
    say: Callable[[str], None] | None = None,
) -> ReportResult:
    """Runs the report notebook and writes `out` (default `reports/<model>.html`) and the executed notebook beside it.

    Beside it go the results as JSON, a Markdown summary and JUnit. `hardware` None means this machine and, where it has
    no accelerator, a simulated pair of GPUs as well. `timeout` is in seconds for each combination, `budget` until no
    further load begins, `deadline` for the whole run, page included, counted from `started` (seconds since the epoch,
    None is now). `baseline` is a file to hold the rows against, `write_baseline`
    one to keep them in. `options` are the further fields of LoadSpec and arguments of `matrix` that `gating` lists,
    `parameters` further parameters of a notebook of one's own. `say` receives a line for each finished combination.
    What happens inside the run, a dead kernel, the deadline and Ctrl-C included, ends in a report that says so and an
    exit code that tells. Raises DiagError for values or parameters that are not valid, before anything runs.
    """
    until = _until(deadline, started)
    source = find_notebook(os.fspath(notebook))
    path = Path(out) if out is not None else Path("reports") / f"{file_name(model)}.html"
    stored = Path(results) if results is not None else path.with_suffix(".sqlite")
    machines = list(hardware) if hardware is not None else default_hardware(model)
    options = dict(options or {})
    own = {name: options[name] for name in gating.SPEC_OPTIONS if name in options}
    specs = grid(model, device_maps, quantizations, machines, probe=probe, loader=loader, adapter=adapter, **own)
    if not specs:
        raise SpecError("no combination is asked for.", next_step="name at least one device map and quantization.")
    if baseline is not None and not write_baseline:
        read_baseline(baseline)  # a wrong file is found now, and not after an hour
    limits = {"budget": budget, "max_loads": max_loads, "deadline": _before(until, source),
              "options": options or None, "baseline": baseline and os.fspath(baseline),
              "write_baseline": _baseline_name(write_baseline, baseline, path)}  # fmt: skip
    values = {**_values(specs, timeout, stored), **_without_none(limits), **(parameters or {})}
    check_parameters(source, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.parent.mkdir(parents=True, exist_ok=True)
    executed = path.with_suffix(".ipynb")
    begun = time.time()
    left = None if until is None else max(1.0, until - begun)
    run = run_notebook(source, executed, values, deadline=left, say=say)
    return finish(run, specs, path, stored, Window(begun))


def _values(specs: Sequence[LoadSpec], timeout: float, stored: Path) -> dict[str, Any]:
    """The parameters of any report notebook; loader and adapter only where there are some."""
    first = specs[0]
    values = {
        "model": first.model, "device_maps": _plain(specs, "device_map_text"),
        "quantizations": _plain(specs, "quantization"), "hardware": _plain(specs, "hardware_text"),
        "probe": first.probe, "timeout": timeout, "results": str(stored),
    }  # fmt: skip
    return {**values, **_without_none({"loader": first.loader, "adapter": first.adapter})}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _until(deadline: float | None, started: float | None) -> float | None:
    """When the notebook must be over, in seconds since the epoch, so that the page is written before the deadline."""
    if deadline is None:
        return None
    return (time.time() if started is None else started) + deadline - min(_PAGE_SECONDS, 0.2 * deadline)


def _before(until: float | None, source: Path) -> float | None:
    """For how long the matrix may go on, so that what it has is still shown by the rest of the notebook."""
    if until is None or "deadline" not in declared_parameters(source):
        return None
    left = until - time.time()
    return max(1.0, left - min(60.0, 0.2 * left))


def _baseline_name(write: Any, baseline: Any, path: Path) -> str | None:
    if write is None or write is False:
        return None
    return os.fspath((baseline or path.with_suffix(".baseline.json")) if write is True else write)


def default_hardware(model: str) -> list[str]:
    """This machine; where it has no accelerator and the model is small, a simulated pair of GPUs as well.

    Each of the pair holds a little more than half of the checkpoint, so that one is not enough and both are.
    """
    from diag.machine.torch_devices import accelerators

    try:
        nbytes = _weights_size(model)
    except DiagError:  # the run itself will say what is wrong
        return [THIS_MACHINE]
    if accelerators() or not 0 < nbytes <= _SIMULATE_UP_TO:
        return [THIS_MACHINE]
    return [THIS_MACHINE, f"2x{_round_size(nbytes * _SHARE)}"]


def _weights_size(model: str) -> int:
    """Bytes of the checkpoint; of a hub model that is not in the cache, of what would be downloaded."""
    from diag.loading.checkpoint import hub
    from diag.loading.checkpoint.find import find_checkpoint, is_local

    if is_local(model):
        return find_checkpoint(model).nbytes
    access = hub.look(model)
    return access.nbytes if access.folder is None else find_checkpoint(str(access.folder)).nbytes


def file_name(model: str) -> str:
    """A model's name as a file name without folders.

    >>> file_name("HuggingFaceTB/SmolLM2-135M"), file_name("../my model/")
    ('SmolLM2-135M', 'my-model')
    """
    last = re.split(r"[/\\]+", model.rstrip("/\\"))[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "model"


def finish(
    run: Run, specs: Sequence[LoadSpec], path: Path, stored: Path, when: Window, source: Path | None = None
) -> ReportResult:
    """Writes what an executed notebook leaves: itself (unless that is `source`), page, JSON, Markdown, JUnit.

    `when` the run went decides which rows of the file `stored` are its own.
    """
    nb, ended = run.nb, endings.settled(run.ended)
    verdict = kept_verdict(nb)
    if endings.exit_code(ended, verdict) is Exit.WRONG_USAGE:
        specs = ()  # nothing was asked that could have rows
    frame = stored_frame(specs, stored, when) if specs else None
    if not ended.ok:
        _put_first(nb, ended, partial(specs, frame, stored) if verdict is None and frame is not None else None)
        verdict = kept_verdict(nb)
    headline = str(verdict["headline"]) if verdict else "The notebook ran to its end"
    if not ended.ok:
        headline = ". ".join([endings.title(ended.to_json()), *([headline] if verdict else [])])
    code = endings.exit_code(ended, verdict)
    executed = path.with_suffix(".ipynb")
    gate = _gate(verdict, frame, code, redacted(headline))
    summaries = path.with_suffix("")
    # The small ones first: a disk may be full.
    _, lost = put(lambda stem: write_summaries(stem, gate, frame), summaries)
    notes = [lost]
    if source is None or executed.resolve() != source.resolve():
        notes.append(put(lambda place: write_notebook(nb, place), executed)[1])
    html = to_html(_for_reading(nb, ended), f"{headline} | diag report")
    page, lost = put(lambda place: write_text(place, html), path)
    notes = [str(redacted(note)) for note in (*notes, lost) if note]
    if notes:
        gate = _with_losses(gate, notes)
        put(lambda stem: write_summaries(stem, gate, frame), summaries)
        notes.append(f"Finished rows are in {redacted(str(stored))}. {_MAKE_ROOM}")
    return ReportResult(page or path, executed, stored, gate.headline, gate.exit_code, ended, verdict, tuple(notes))


def _with_losses(gate: Gate, notes: Sequence[str]) -> Gate:
    """What got worse stays worse; a job that was as expected must not pass without its report."""
    warnings = (*gate.warnings, *notes)
    if gate.exit_code is not Exit.AS_EXPECTED:
        return replace(gate, warnings=warnings)
    said = f"Could not judge: not all of the report could be written. {gate.headline}"
    return replace(gate, warnings=warnings, exit_code=Exit.NOT_JUDGED, headline=said)


def _gate(verdict: Mapping[str, Any] | None, frame: pd.DataFrame | None, code: Exit, headline: str) -> Gate:
    """The gate that the notebook left, else what the stored rows say; with the outcome of the whole run."""
    said = (verdict or {}).get("gate")
    if said:
        return replace(Gate.from_json(said), exit_code=code, headline=headline)
    return replace(Gate(code, headline, ()) if frame is None else gate_of(frame), exit_code=code, headline=headline)


def _for_reading(nb: Any, ended: Ending) -> Any:
    """A copy whose gate cell shows its outcome without the traceback that made papermill stop."""
    shown = nbformat.from_dict(redacted(nb))
    shown.metadata["diag"] = {"ended": ended.to_json()}
    for cell in shown.cells:
        if endings.GATE_TAG in cell.metadata.get("tags", []):
            kept = [output for output in cell.outputs if output.get("ename") != "GateFailed"]
            cell["outputs"] = kept
    return shown


def _put_first(nb: Any, ended: Ending, partial: View | None) -> None:
    """Opens the executed notebook with what went wrong and the rows that were finished before."""
    lines = death_notice(ended.to_json()).text.splitlines()
    banner = nbformat.v4.new_markdown_cell("\n".join([f"> **{lines[0]}**", *(f">\n> {line}" for line in lines[1:])]))
    banner.metadata["tags"] = ["diag-banner"]
    cells = [banner]
    if partial is not None:
        shown = nbformat.v4.new_output("display_data", partial._repr_mimebundle_())
        cells.append(nbformat.v4.new_code_cell(outputs=[shown]))
        cells[-1].metadata["tags"] = ["diag-partial"]
    nb.cells[:0] = cells


def _plain(specs: Sequence[LoadSpec], name: str) -> list[str]:
    """The different values of a field, in order, as text that a notebook's parameter cell can hold."""
    return list(dict.fromkeys(getattr(spec, name) for spec in specs))


def _round_size(nbytes: float) -> str:
    """Bytes rounded up to two digits of a binary unit.

    >>> _round_size(513 * 2**20 * 0.58)
    '300MiB'
    """
    unit = 2 ** (10 * max(0, int(math.log2(nbytes) // 10)))
    step = 10 ** max(0, math.ceil(math.log10(nbytes / unit)) - 2)
    return format_exact(math.ceil(nbytes / unit / step) * step * unit)
