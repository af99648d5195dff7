"""The commands that load models or read what was kept of loads: report, matrix, placement, diff, env.

Heavy libraries are imported inside the command that needs them.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from diag.errors import CouldNotJudgeError, DiagError
from diag.values.exits import Exit
from diag.values.spec import LoadSpec
from diag.values.text import visible
from diag.views.cli import options as given
from diag.views.cli.command import command, print_json

_DIED = "2 wrong usage ·\n3 could not judge (no access, network or disk space, or others hold the GPU) · 4 the run died"
_COMPARED = "0 nothing got worse · 1 a row got worse · 2 wrong usage · 3 a file can't be read"
_GATED = f"0 as expected · 1 worse than the baseline · {_DIED}"


@command("diag report --model smollm2 --out reports/smollm2.html", _GATED, given.add_report_options)
def report(options: argparse.Namespace) -> Exit:
    """Loads a model under every combination and writes one HTML file."""
    if options.plan:
        return _plan(options)
    try:
        from diag.views.report.afterwards import report_from
        from diag.views.report.report import write_report

        if options.from_notebook:
            result = report_from(options.from_notebook, options.out, options.results)
        else:
            asked = given.order_of(options)  # before the model: `-p NAME VALUE` looks like two models
            result = write_report(given.model_of(options), **asked, started=_started(options), say=_say)
    except (DiagError, OSError) as error:
        from diag.views.report.afterwards import refuse

        for note in refuse(error, Path(options.out)) if options.out is not None else ():
            _say(visible(note))
        raise
    if options.json:
        print_json(result.to_json())
    else:
        print(f"{visible(result.headline)}\n{result.path}")
    for note in result.notes:
        _say(visible(note))
    return result.exit_code


@command("diag matrix --model tiny --device-map auto,disk --quantization none,int8", _GATED, given.add_matrix_options)
def matrix(options: argparse.Namespace) -> Exit:
    """Loads a model under every combination and prints one row each."""
    if options.plan:
        return _plan(options)
    from diag.machine.processes import seconds_left
    from diag.sweep.results import gate
    from diag.sweep.results.baseline import read_baseline
    from diag.sweep.run import matrix as run_matrix
    from diag.views.report import gating, summary

    specs, results = given.grid_of(options), options.results or "results.sqlite"
    old, new = gating.baseline_files(options.baseline, options.write_baseline, "baseline.json")
    baseline = None if old is None else read_baseline(old)
    limits = given.limits_of(options)
    limits["deadline"] = seconds_left(limits["deadline"], _started(options))
    frame = run_matrix(specs, results, **limits, **given.run_options(options))
    gated = gate.gate_of(frame, baseline)
    if options.json:
        print_json(json.loads(frame.to_json(orient="records")))
    else:
        for view in (summary.overview(frame), summary.failures(frame), summary.headline(frame, gated)):
            print(f"{visible(view.text)}\n")
        print(f"Every row is in {results}.")
    if new is not None and gating.keep_baseline(new, frame, gated):
        _say(f"The baseline is in {new}.")
    return gated.exit_code


@command("diag placement --model tiny --device-map disk --by device", f"0 shown · {_DIED}", given.add_placement_options)
def placement(options: argparse.Namespace) -> Exit:
    """Loads a model once and says where every tensor is and who holds its data."""
    from diag.loading.recipe import load
    from diag.models import table as totals
    from diag.models.table import placement as table_of
    from diag.sweep.run import placement_of
    from diag.views import plots, rows

    shared = {"dtype": options.dtype, "max_memory": given.max_memory_of(options)}
    spec = LoadSpec(given.model_of(options), options.device_map, options.quantization, options.hardware, **shared)
    outcome = None if options.results else load(spec)
    if outcome is not None and outcome.error is not None:
        said = f"{type(outcome.error).__name__}: {outcome.error}"
        refused = CouldNotJudgeError(f"{spec.model!r} did not load.", why=said)
        raise outcome.error if isinstance(outcome.error, DiagError) else refused from outcome.error
    table = placement_of(options.results, spec) if outcome is None else table_of(outcome.model)
    frame = {"device": totals.by_device, "layer": totals.by_layer}.get(options.by, lambda same: same)(table)
    if options.json:
        print_json(json.loads(frame.to_json(orient="records")))
        return Exit.AS_EXPECTED
    if options.by == "layer":
        print(visible(f"{spec.model}\n{plots.strips_of({str(rows.label([rows.described(spec)])): table}).text}\n"))
    print(visible(frame.to_string(index=False)))
    return Exit.AS_EXPECTED


@command("diag diff last-week.sqlite results.sqlite", _COMPARED, given.add_diff_options)
def diff(options: argparse.Namespace) -> Exit:
    """Says what changed between two results files: versions, maps, statuses, sizes, answers."""
    from diag.sweep.results.diffing import diff as compare

    found = compare(options.old, options.new)
    if options.json:
        print_json(found.to_json())
    else:
        print(visible(str(found)))
    return Exit.WORSE if found.worse else Exit.AS_EXPECTED


@command("diag env", "0 shown · 2 wrong usage · 4 the run died")
def env(options: argparse.Namespace) -> Exit:
    """Says what this machine is: versions, devices, memory; works where torch is broken."""
    from diag.machine.environment import environment
    from diag.views.machine import this_machine

    if options.json:
        print_json(environment().to_dict())
    else:
        print(visible(this_machine().text))
    return Exit.AS_EXPECTED


def _plan(options: argparse.Namespace) -> Exit:
    """Prints what the run would take and loads nothing; "could not judge" where nothing could be planned."""
    from diag.sweep.run import price

    how = {name: value for name, value in given.run_options(options).items() if name != "yes"}
    found = price(given.grid_of(options), options.results, **how)
    code = Exit.NOT_JUDGED if found.is_unknown else Exit.AS_EXPECTED
    if options.json:
        print_json({**asdict(found), "is_large": found.is_large, "exit_code": int(code)})
        return code
    print(visible(str(found)))
    for word, texts in (("could not be planned", found.hindrances), ("refused", found.refusals)):
        for text in texts:
            print(visible(f"{word}: {text}"))
    if found.is_large:
        print("That is more than half of the host's free memory: to run it all the same, add --yes.")
    return code


def _started(options: argparse.Namespace) -> float:
    """When this run began, in seconds since the epoch: with the process, where that was started for it."""
    from diag.machine.processes import process_started

    return process_started() if options.started is None else options.started


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
