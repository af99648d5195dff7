"""A report notebook that gates: its parameters are checked before anything is loaded, its last cell stops on a failure.

Works under anybody's papermill: lists that arrive as text are read, unknown names are refused, and a kernel of another
environment is named.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from diag.errors import SpecError
from diag.machine.environment import versions
from diag.machine.processes import process_started, seconds_left
from diag.sweep.results.baseline import Baseline, read_baseline, write_baseline
from diag.sweep.results.gate import Gate, gate_of
from diag.sweep.results.rows import rows_of
from diag.values import fields
from diag.values.fields import none_if_blank, optional
from diag.values.spec import LoadSpec, grid
from diag.values.units import parse_seconds, parse_size
from diag.views.markup import View, render
from diag.views.report.artefacts import write_summaries
from diag.views.report.notebooks import check_kernel, check_names, injected_names

# The names of report.ipynb's parameters; a test holds the two against each other.
PARAMETERS = (
    "model device_maps quantizations hardware probe loader adapter timeout budget max_loads deadline results baseline "
    "write_baseline options"
).split()
SPEC_OPTIONS = ("dtype", "max_memory", "offload_folder")
_PARSERS: dict[str, Callable[[object, str], object]] = {
    **dict.fromkeys(("yes", "fresh", "retry_failed"), fields.parse_flag),
    "workers": fields.parse_count,
    "memory_limit": parse_size,
}
RUN_OPTIONS = tuple(_PARSERS)


@dataclass(frozen=True)
class Asked:
    """What a report is asked to do: the specs, the arguments of `matrix`, and what to hold the result against."""

    specs: list[LoadSpec]
    results: str = "results.sqlite"
    how: dict[str, Any] = field(default_factory=dict)
    baseline: Baseline | None = None
    write_baseline: str | None = None

    def loaded(self, frame: pd.DataFrame) -> list[LoadSpec]:
        """The specs whose row in this run's frame has a placement; the results file may hold older ones."""
        return [spec for spec, known in zip(self.specs, frame["n_resident"].notna()) if known]


def read(names: Mapping[str, object]) -> Asked:
    """The parameters of a report out of a notebook's names (`globals()`), checked before anything is loaded.

    Raises NotebookError for a name that papermill set and the notebook does not have, CouldNotJudgeError where the
    kernel is another environment's, and SpecError for a value that can't be, or a baseline that is not there.
    """
    check_kernel()
    injected = injected_names()
    check_names(injected, PARAMETERS)
    asked = asked_for({name: names[name] for name in PARAMETERS if name in names})
    if injected:  # papermill started this kernel for this run, so its start counts
        asked.how["deadline"] = seconds_left(asked.how["deadline"], process_started())
    return asked


def asked_for(values: Mapping[str, object]) -> Asked:
    """Parameters as values to what they ask for. Text that papermill could not read is read here."""
    options = _options(values.get("options"))
    spec_values = {name: options[name] for name in SPEC_OPTIONS if options.get(name) is not None}
    for name in ("probe", "loader", "adapter"):
        spec_values[name] = none_if_blank(values.get(name))
    model: Any = none_if_blank(values.get("model"))  # whatever it is, grid says what is wrong
    maps, kinds = (fields.parse_filled_list(values.get(name), name) for name in ("device_maps", "quantizations"))
    specs = grid(model, maps, kinds, fields.parse_machines(values.get("hardware")) or None, **spec_values)
    how: dict[str, Any] = {name: options[name] for name in RUN_OPTIONS if options.get(name) is not None}
    for name in ("timeout", "budget", "deadline"):
        how[name] = optional(parse_seconds, values.get(name), name)
    how["max_loads"] = optional(fields.parse_count, values.get("max_loads"), "max_loads")
    old, new = baseline_files(values.get("baseline"), values.get("write_baseline"), "baseline.json")
    known = None if old is None else read_baseline(old)
    results = optional(fields.parse_file_name, values.get("results"), "results") or "results.sqlite"
    return Asked(specs, results, how, known, new)


def _options(given: object) -> dict[str, object]:
    """The further options as a dict, each read as what it is."""
    value = none_if_blank(given)
    if isinstance(value, str):
        found = fields.parse_list(value, "options")
        value = found[0] if len(found) == 1 else value
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(f"options={value!r} is not a JSON object.", next_step='write for example {"workers": 1}')
    check_names(map(str, value), (*SPEC_OPTIONS, *RUN_OPTIONS))
    return {name: _PARSERS[name](item, name) if name in _PARSERS else item for name, item in value.items()}


def baseline_files(baseline: object, write: object, default: str) -> tuple[str | None, str | None]:
    """Which file to compare with and which to write. `write` true means the compared one, made if it is not there.

    Raises SpecError for what is no file's name.
    """
    old = optional(fields.parse_file_name, baseline, "baseline")
    try:
        wanted, named = optional(fields.parse_flag, write, "write_baseline"), None
    except SpecError:
        wanted, named = True, optional(fields.parse_file_name, write, "write_baseline")
    new = named or old or default
    if not wanted:
        return old, None
    return (None if old == new and not Path(new).exists() else old), new


def hold(frame: pd.DataFrame, asked: Asked) -> Gate:
    """The frame against the baseline, if there is one."""
    return gate_of(frame, asked.baseline)


def finish(frame: pd.DataFrame, gate: Gate, asked: Asked) -> View:
    """The last step: writes results as JSON, Markdown and JUnit beside the results file, and the baseline if asked.

    Shows what the gate says, each row that changed and what was written; then raises GateFailed unless the run came
    out as expected.
    """
    written = [str(path) for path in write_summaries(Path(asked.results).with_suffix(""), gate, frame)]
    if asked.write_baseline is not None and keep_baseline(asked.write_baseline, frame, gate):
        written.append(asked.write_baseline)
    notable = [row for row in gate.rows if row.standing in ("worse", "unjudged", "changed", "new")]
    lines = [f"{row.standing}: {row.name}: {row.why or row.reason}" for row in notable]
    texts = [f"{gate.headline}. Exit code {int(gate.exit_code)}.", *gate.warnings, *lines]
    files = f"Written: {', '.join(written)}."
    view = View(render("report/outcome", texts=texts, files=files), "\n".join([*texts, files]))
    if gate.exit_code:
        from IPython.display import display

        display(view)
        gate.check()
    return view


def keep_baseline(path: str | os.PathLike[str], frame: pd.DataFrame, gate: Gate) -> bool:
    """Writes the rows as the next baseline, with the versions they were made with; False where no row was judged."""
    if all(row.standing == "unjudged" for row in gate.rows):
        return False
    write_baseline(path, rows_of(frame), versions())
    return True
