"""write_report(): one model under every combination as one HTML file, whatever happens on the way."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

import diag
from diag.errors import DiagError, SpecError
from diag.exits import Exit
from diag.hardware import format_exact
from diag.spec import PRESETS, LoadSpec
from diag.views import plots, summary
from diag.views.convert import death_notice, to_html, verdict_of
from diag.views.execute import ERROR, Ended, Run, run_notebook
from diag.views.files import redacted, write_notebook, write_text
from diag.views.markup import View
from diag.views.notebooks import REPORT, check_parameters, find_notebook
from diag.views.wording import THIS_MACHINE

_SIMULATE_UP_TO = 2 * 2**30  # bytes of checkpoint; above, a second machine would take too long by default
_SHARE = 0.58  # of the checkpoint on each of two simulated GPUs: one is too small, both together are enough


@dataclass(frozen=True)
class ReportResult:
    """Where the report is, what it says first, and the exit code that goes with it."""

    path: Path
    notebook: Path
    results: Path
    headline: str
    exit_code: Exit
    ended: Ended
    verdict: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        paths = {name: str(getattr(self, name)) for name in ("path", "notebook", "results")}
        values = {"headline": self.headline, "ended": self.ended.to_json(), "verdict": self.verdict}
        return redacted({**paths, **values, "exit_code": int(self.exit_code)})


def write_report(
    model: str,
    out: str | os.PathLike[str] | None = None,
    *,
    device_maps: Iterable[Any] = PRESETS,
    quantizations: Iterable[Any] = ("none", "int8", "nf4"),
    hardware: Iterable[str] | None = None,
    probe: str | None = None,
    timeout: float = 600.0,
    deadline: float | None = None,
    results: str | os.PathLike[str] | None = None,
    notebook: str | os.PathLike[str] = REPORT,
    parameters: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> ReportResult:
    """Runs the report notebook and writes `out` (default `reports/<model>.html`) and the executed notebook beside it.

    `hardware` None means this machine and, where it has no accelerator, a simulated pair of GPUs as well. `timeout`
    is in seconds for each combination, `deadline` for the whole run. `parameters` are further parameters of a
    notebook of one's own. `say` receives a line for each finished combination. What happens inside the run, a dead
    kernel, the deadline and Ctrl-C included, ends in a report that says so and an exit code that tells. Raises
    DiagError for values or parameters that are not valid, before anything runs.
    """
    source = find_notebook(os.fspath(notebook))
    path = Path(out) if out is not None else Path("reports") / f"{file_name(model)}.html"
    stored = Path(results) if results is not None else path.with_suffix(".sqlite")
    machines = list(hardware) if hardware is not None else default_hardware(model)
    specs = diag.grid(model, device_maps, quantizations, machines, probe=probe)
    values = {
        "model": model, "device_maps": _plain(specs, "device_map_text"),
        "quantizations": _plain(specs, "quantization"), "hardware": _plain(specs, "hardware_text"), "probe": probe,
        "timeout": timeout, "results": str(stored), **(parameters or {}),
    }  # fmt: skip
    check_parameters(source, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.parent.mkdir(parents=True, exist_ok=True)
    executed = path.with_suffix(".ipynb")
    run = run_notebook(source, executed, values, deadline=deadline, say=say)
    return _finish(run, specs, path, executed, stored)


def default_hardware(model: str) -> list[str]:
    """This machine; where it has no accelerator and the model is small, a simulated pair of GPUs as well.

    Each of the pair holds a little more than half of the checkpoint, so that one is not enough and both are.
    """
    from diag.checkpoint import find_checkpoint
    from diag.environment import device_names

    try:
        nbytes = find_checkpoint(model).nbytes
    except DiagError:  # the run itself will say what is wrong
        return [THIS_MACHINE]
    if len(device_names()) > 1 or not 0 < nbytes <= _SIMULATE_UP_TO:
        return [THIS_MACHINE]
    return [THIS_MACHINE, f"2x{_round_size(nbytes * _SHARE)}"]


def file_name(model: str) -> str:
    """A model's name as a file name without folders.

    >>> file_name("HuggingFaceTB/SmolLM2-135M"), file_name("../my model/")
    ('SmolLM2-135M', 'my-model')
    """
    last = re.split(r"[/\\]+", model.rstrip("/\\"))[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "model"


def _finish(run: Run, specs: Sequence[LoadSpec], path: Path, executed: Path, stored: Path) -> ReportResult:
    nb, ended = run.nb, run.ended
    verdict = verdict_of(nb)
    if not ended.ok:
        _put_first(nb, ended, _partial(specs, stored) if verdict is None else None)
        verdict = verdict_of(nb)
    headline = verdict["headline"] if verdict else "The notebook ran to its end"
    if not ended.ok:
        headline = f"{death_notice(ended.to_json()).text.splitlines()[0]}. {headline if verdict else ''}".strip()
    write_notebook(nb, executed)
    write_text(path, to_html(nbformat.from_dict(redacted(nb)), f"{headline} | diag report"))
    return ReportResult(path, executed, stored, redacted(headline), _exit_code(ended, verdict), ended, verdict)


def _exit_code(ended: Ended, verdict: Mapping[str, Any] | None) -> Exit:
    error = ended.why.partition(":")[0]
    if ended.how == ERROR and error in _names(SpecError):
        return Exit.WRONG_USAGE
    if ended.how == ERROR and error in _no_access() | _names(DiagError):
        return Exit.NOT_JUDGED
    if not ended.ok:
        return Exit.DIED
    return Exit(verdict["exit_code"]) if verdict else Exit.AS_EXPECTED


def _no_access() -> frozenset[str]:
    from diag.sweep.rows import NO_ACCESS  # imports torch

    return NO_ACCESS


def _names(error: type[Exception]) -> set[str]:
    """The names of a class of errors and of those below it."""
    return {error.__name__}.union(*map(_names, error.__subclasses__()))


def _put_first(nb: Any, ended: Ended, partial: View | None) -> None:
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


def _partial(specs: Sequence[LoadSpec], stored: Path) -> View:
    """What the results file holds of `specs`; the rest shows as not run."""
    frame = stored_frame(specs, stored)
    view = summary.headline(frame) + summary.overview(frame)
    if frame["n_resident"].notna().any():
        view = view + plots.placement_strips(specs, str(stored)) + plots.memory_and_time(frame)
    return view + summary.answers(frame, specs[0].probe) + summary.failures(frame)


def stored_frame(specs: Sequence[LoadSpec], stored: Path) -> pd.DataFrame:
    """The frame of `specs`: rows that the results file holds from these library versions, the rest `not_run`."""
    from diag.environment import versions
    from diag.sweep.rows import blank_row, frame_of
    from diag.sweep.store import Store

    found: dict[LoadSpec, dict[str, Any]] = {}
    if stored.is_file():
        with suppress(DiagError), Store(stored, must_exist=True) as store:
            rows, keys = store.rows(), {spec: store.find(spec.to_json()) for spec in specs}
            valid = {spec: key for spec, key in keys.items() if key and _made_with(store, key) == versions()}
            found = {spec: rows[key] for spec, key in valid.items()}
    ended = "The run ended before this combination was loaded."
    return frame_of([found.get(spec) or blank_row(spec, "not_run", ended) for spec in specs])


def _made_with(store: Any, key: str) -> dict[str, str] | None:
    """The library versions that a stored row was made with."""
    return (store.extra(key) or {}).get("versions")


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
