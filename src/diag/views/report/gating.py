"""A report notebook that gates: its parameters are checked before anything is loaded, its last cell stops on a failure.

Works under anybody's papermill: lists that arrive as text are read, unknown names are refused, and a kernel of another
environment is named.
"""

import ast
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from diag.errors import CouldNotJudgeError, SpecError
from diag.machine.processes import process_started, seconds_left
from diag.sweep.results.baseline import Baseline, read_baseline, write_baseline
from diag.sweep.results.gate import Gate, gate_of
from diag.sweep.results.rows import rows_of
from diag.values.fields import (
    none_if_blank,
    optional,
    parse_count,
    parse_file_name,
    parse_filled_list,
    parse_flag,
    parse_list,
    parse_machines,
)
from diag.values.spec import LoadSpec, grid
from diag.values.units import parse_seconds, parse_size
from diag.views.markup import View, render
from diag.views.report.artefacts import write_summaries
from diag.views.report.leftovers import loaded_of
from diag.views.report.notebooks import NotebookError

# The names of report.ipynb's parameters; a test holds the two against each other.
PARAMETERS = (
    "model", "device_maps", "quantizations", "hardware", "probe", "loader", "adapter", "timeout", "budget", "max_loads",
    "deadline", "results", "baseline", "write_baseline", "options",
)  # fmt: skip
SPEC_OPTIONS = ("dtype", "max_memory", "offload_folder")
_PARSERS: dict[str, Callable[[object, str], object]] = {
    "workers": parse_count,
    "retry_failed": parse_flag,
    "fresh": parse_flag,
    "memory_limit": parse_size,
    "yes": parse_flag,
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
        """The specs whose row in this run's frame has a placement."""
        return loaded_of(self.specs, frame)


def read(names: Mapping[str, Any]) -> Asked:
    """The parameters of a report out of a notebook's names (`globals()`), checked before anything is loaded.

    Raises NotebookError for a name that papermill set and the notebook does not have, CouldNotJudgeError where the
    kernel is another environment's, and SpecError for a value that can't be, or a baseline that is not there.
    """
    check_kernel()
    injected = _injected_names()
    check_injected(injected, PARAMETERS)
    asked = asked_for({name: names[name] for name in PARAMETERS if name in names})
    if injected:  # papermill started this kernel for this run, so its start counts
        asked.how["deadline"] = seconds_left(asked.how["deadline"], process_started())
    return asked


def asked_for(values: Mapping[str, Any]) -> Asked:
    """Parameters as values to what they ask for. Text that papermill could not read is read here."""
    options = _options(values.get("options"))
    spec_values = {name: options[name] for name in SPEC_OPTIONS if options.get(name) is not None}
    for name in ("probe", "loader", "adapter"):
        spec_values[name] = none_if_blank(values.get(name))
    specs = grid(
        none_if_blank(values.get("model")),  # type: ignore[arg-type]  # a spec says that it needs one
        parse_filled_list(values.get("device_maps"), "device_maps"),
        parse_filled_list(values.get("quantizations"), "quantizations"),
        parse_machines(values.get("hardware")) or None,
        **spec_values,
    )
    how: dict[str, Any] = {name: options[name] for name in RUN_OPTIONS if options.get(name) is not None}
    for name in ("timeout", "budget", "deadline"):
        how[name] = optional(parse_seconds, values.get(name), name)
    how["max_loads"] = optional(parse_count, values.get("max_loads"), "max_loads")
    old, new = baseline_files(values.get("baseline"), values.get("write_baseline"), "baseline.json")
    known = None if old is None else read_baseline(old)
    results = optional(parse_file_name, values.get("results"), "results") or "results.sqlite"
    return Asked(specs, results, how, known, new)


def baseline_files(baseline: Any, write: Any, default: str) -> tuple[str | None, str | None]:
    """Which file to compare with and which to write. `write` true means the compared one, made if it is not there.

    Raises SpecError for what is no file's name.

    >>> baseline_files("b.json", None, "d.json"), baseline_files(None, True, "d.json")
    (('b.json', None), (None, 'd.json'))
    """
    old = optional(parse_file_name, baseline, "baseline")
    try:
        wanted, named = optional(parse_flag, write, "write_baseline"), None
    except SpecError:
        wanted, named = True, optional(parse_file_name, write, "write_baseline")
    new = named or old or default
    if not wanted:
        return old, None
    return (None if old == new and not Path(new).exists() else old), new


def hold(frame: pd.DataFrame, asked: Asked) -> Gate:
    """The frame against the baseline, if there is one."""
    return gate_of(frame, asked.baseline)


def finish(frame: pd.DataFrame, gate: Gate, asked: Asked) -> View:
    """The last step: writes results as JSON, Markdown and JUnit beside the results file, and the baseline if asked.

    Shows what was written, and then raises GateFailed unless the run came out as expected.
    """
    written = [str(path) for path in write_summaries(Path(asked.results).with_suffix(""), gate, frame)]
    if asked.write_baseline is not None and judged_any(gate):
        keep_baseline(asked.write_baseline, frame)
        written.append(asked.write_baseline)
    view = outcome(gate, written)
    if gate.exit_code:
        from IPython.display import display

        display(view)
        gate.check()
    return view


def keep_baseline(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Writes the rows as the next baseline, with the versions they were made with."""
    from diag.machine.environment import versions

    write_baseline(path, rows_of(frame), versions())


def judged_any(gate: Gate) -> bool:
    """Whether there is anything to make a baseline of."""
    return any(row.standing != "unjudged" for row in gate.rows)


def outcome(gate: Gate, written: Iterable[str]) -> View:
    """What the gate says, row by row where something changed, and the files that were written."""
    notable = [row for row in gate.rows if row.standing in ("worse", "unjudged", "changed", "new")]
    lines = [f"{row.standing}: {row.name}: {row.why or row.reason}" for row in notable]
    texts = [f"{gate.headline}. Exit code {int(gate.exit_code)}.", *gate.warnings, *lines]
    files = f"Written: {', '.join(written)}."
    return View(render("report/outcome", texts=texts, files=files), "\n".join([*texts, files]))


# --- what papermill hands over ----------------------------------------------------------------------------------------


def check_injected(injected: Iterable[str], valid: Iterable[str]) -> None:
    """Raises NotebookError for a name that was set and is no parameter."""
    valid = sorted(valid)
    for name in injected:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            raise NotebookError(
                f"this notebook has no parameter {name!r}.",
                why=f"its parameters are: {', '.join(valid)}.",
                next_step=f"did you mean {close[0]!r}?" if close else "use one of those.",
            )


def _injected_names() -> list[str]:
    """The names that papermill's own cell assigned in this kernel; it marks that cell with a comment."""
    shell = _shell()
    history = list(shell.user_ns.get("In", ())) if shell is not None else []
    cells = [source for source in history if source.startswith("# Parameters\n")]
    return assigned_names(cells[-1]) if cells else []


def assigned_names(source: str) -> list[str]:
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return []
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def check_kernel() -> None:
    """Raises CouldNotJudgeError where the papermill that runs this notebook belongs to another environment."""
    if _shell() is None:
        return
    theirs = _starter_prefix()
    if theirs is not None and os.path.realpath(theirs) != os.path.realpath(sys.prefix):
        raise CouldNotJudgeError(
            "this kernel belongs to another environment than the papermill that runs it.",
            why=f"papermill is in {theirs!r}, and the kernel in {sys.prefix!r}: its versions would be judged.",
            next_step="name the kernel with papermill -k, or make one there: python -m ipykernel install --sys-prefix.",
        )


def _starter_prefix() -> str | None:
    """The environment of the papermill that started this kernel; None where something else did, or it can't be told."""
    import psutil

    try:
        starter = psutil.Process().parent()
        command = starter.cmdline() if starter is not None else []
        path = starter.environ().get("PATH", "") if starter is not None else ""
    except psutil.Error:
        return None
    if not any("papermill" in part for part in command):
        return None
    return environment_of(command[0], path)


def environment_of(program: str, path: str) -> str | None:
    """The prefix of the environment a Python program belongs to: the folder above its own; None if it is not found."""
    import shutil

    found = program if os.path.isabs(program) else shutil.which(program, path=path)
    if found is None:
        return None
    prefix = Path(found).parent.parent
    return str(prefix) if (prefix / "pyvenv.cfg").exists() or (prefix / "conda-meta").exists() else None


def _shell() -> Any:
    if "IPython" not in sys.modules:
        return None
    return sys.modules["IPython"].get_ipython()


def _options(value: Any) -> dict[str, Any]:
    """The further options as a dict, each read as what it is."""
    value = none_if_blank(value)
    if isinstance(value, str):
        found = parse_list(value, "options")
        value = found[0] if len(found) == 1 else value
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(f"options={value!r} is not a JSON object.", next_step='write for example {"workers": 1}')
    check_injected(map(str, value), (*SPEC_OPTIONS, *RUN_OPTIONS))
    return {name: optional(_PARSERS[name], v, name) if name in _PARSERS else v for name, v in value.items()}
