"""What each command of the command line does. Heavy libraries are imported inside the command that needs them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import diag
from diag.errors import CouldNotJudgeError, DiagError, SpecError
from diag.values.exits import Exit
from diag.values.fields import parse_list
from diag.values.spec import PRESETS, LoadSpec
from diag.values.units import parse_seconds
from diag.views.markup import visible


def report(options: argparse.Namespace) -> Exit:
    """One HTML file, and its path on stdout; a line for each finished combination goes to stderr."""
    if options.plan:
        return _plan(options)
    from diag.views.cli.refusal import write_refusal

    try:
        result = _report_from(options) if options.from_notebook else _report(options)
    except (DiagError, OSError) as error:
        write_refusal(error, options.out)
        raise
    if options.json:
        _print_json(result.to_json())
    else:
        print(f"{visible(result.headline)}\n{result.path}")
    for note in result.notes:
        _say(visible(note))
    return result.exit_code


def _report(options: argparse.Namespace) -> Any:
    from diag.views.report.notebooks import REPORT
    from diag.views.report.report import write_report

    parameters = dict(map(_parameter, options.parameter))  # before the model: `-p NAME VALUE` looks like two of them
    return write_report(
        _model(options),
        options.out,
        device_maps=_several(options.device_map) or PRESETS,
        quantizations=_several(options.quantization) or ("none", "int8", "nf4"),
        hardware=options.hardware,
        probe=options.probe,
        loader=options.loader,
        adapter=options.adapter,
        timeout=parse_seconds(options.timeout, "--timeout"),
        budget=_time(options, "budget"),
        max_loads=options.max_loads,
        deadline=_time(options, "deadline"),
        baseline=options.baseline,
        write_baseline=options.write_baseline,
        options={**_spec_options(options), **_run_options(options)},
        results=options.results,
        notebook=options.notebook or REPORT,
        parameters=parameters,
        started=_started(options),
        say=_say,
    )


def _report_from(options: argparse.Namespace) -> Any:
    from diag.views.report.afterwards import report_from

    return report_from(options.from_notebook, options.out, options.results)


def matrix(options: argparse.Namespace) -> Exit:
    """The overview, what to use and what did not work; with `--json` every row."""
    from diag.machine.processes import seconds_left
    from diag.sweep.results import gate
    from diag.sweep.results.baseline import read_baseline
    from diag.views.report import gating, summary

    if options.plan:
        return _plan(options)
    specs, results = _grid(options), options.results or "results.sqlite"
    old, new = gating.baseline_files(options.baseline, options.write_baseline, "baseline.json")
    baseline = None if old is None else read_baseline(old)
    run = diag.matrix  # imports torch, which takes its time
    frame = run(
        specs,
        results,
        timeout=parse_seconds(options.timeout, "--timeout"),
        budget=_time(options, "budget"),
        max_loads=options.max_loads,
        deadline=seconds_left(_time(options, "deadline"), _started(options)),
        **{"yes": False, **_run_options(options)},
    )
    gated = gate.judge(frame, baseline)
    if options.json:
        _print_json(json.loads(frame.to_json(orient="records")))
    else:
        for view in (summary.overview(frame), summary.failures(frame), summary.headline(frame, gated)):
            print(f"{visible(view.text)}\n")
        print(f"Every row is in {results}.")
    if new is not None and gating.judged_any(gated):
        gating.keep_baseline(new, frame)
        _say(f"The baseline is in {new}.")
    return gated.exit_code


def diff(options: argparse.Namespace) -> Exit:
    """What changed between two results files, in words; 1 where a row got worse."""
    from diag.sweep.results.diffing import diff as compare

    found = compare(options.old, options.new)
    if options.json:
        _print_json(found.to_json())
    else:
        print(visible(str(found)))
    return Exit.WORSE if found.worse else Exit.AS_EXPECTED


def _plan(options: argparse.Namespace) -> Exit:
    """What the run would take; loads nothing. Where nothing could be planned, it could not judge."""
    from dataclasses import asdict

    from diag.sweep.run import price

    run = {name: value for name, value in _run_options(options).items() if name in ("workers", "retry_failed", "fresh")}
    found = price(_grid(options), options.results, **run)
    code = Exit.NOT_JUDGED if found.is_unknown else Exit.AS_EXPECTED
    if options.json:
        _print_json({**asdict(found), "is_large": found.is_large, "exit_code": int(code)})
        return code
    print(visible(str(found)))
    for word, texts in (("could not be planned", found.hindrances), ("refused", found.refusals)):
        for text in texts:
            print(visible(f"{word}: {text}"))
    if found.is_large:
        print("That is more than half of the host's free memory: the run asks for --yes.")
    return code


def _grid(options: argparse.Namespace) -> list[LoadSpec]:
    return diag.grid(
        _model(options),
        _several(options.device_map) or PRESETS,
        _several(options.quantization) or ("none", "int8", "nf4"),
        options.hardware,
        probe=options.probe,
        loader=options.loader,
        adapter=options.adapter,
        **_spec_options(options),
    )


def _spec_options(options: argparse.Namespace) -> dict[str, Any]:
    found = {name: getattr(options, name) for name in ("dtype", "offload_folder")}
    memory = options.max_memory
    found["max_memory"] = None if memory is None else _json_value(memory, "--max-memory")
    return {name: value for name, value in found.items() if value is not None}


def _run_options(options: argparse.Namespace) -> dict[str, Any]:
    found = {name: getattr(options, name) for name in ("workers", "retry_failed", "fresh", "yes")}
    return {name: value for name, value in found.items() if value is not None}


def _time(options: argparse.Namespace, name: str) -> float | None:
    value = getattr(options, name)
    return None if value is None else parse_seconds(value, f"--{name}")


def _started(options: argparse.Namespace) -> float:
    """When this run began: with the process, where that was started for it."""
    from diag.machine.processes import process_started

    return process_started() if options.started is None else options.started


def placement(options: argparse.Namespace) -> Exit:
    """Where every tensor is: a strip and its totals, or a table by device or by tensor."""
    spec = LoadSpec(
        _model(options),
        options.device_map,
        options.quantization,
        options.hardware,
        dtype=options.dtype,
        max_memory=None if options.max_memory is None else _json_value(options.max_memory, "--max-memory"),
    )
    table = diag.placement_of(options.results, spec) if options.results else _loaded_table(spec)
    frame = _table_by(table, options.by)
    if options.json:
        _print_json(json.loads(frame.to_json(orient="records")))
    else:
        _print_placement(spec, table, frame, options.by)
    return Exit.AS_EXPECTED


def env(options: argparse.Namespace) -> Exit:
    """What this machine is; imports nothing that could be broken."""
    from diag.machine.environment import environment
    from diag.views.machine import describe

    if options.json:
        _print_json(environment().to_dict())
    else:
        print(visible(describe().text))
    return Exit.AS_EXPECTED


def _loaded_table(spec: LoadSpec) -> Any:
    outcome = diag.load(spec)
    if isinstance(outcome.error, DiagError):
        raise outcome.error
    if outcome.error is not None:
        said = f"{type(outcome.error).__name__}: {outcome.error}"
        raise CouldNotJudgeError(f"{spec.model!r} did not load.", why=said) from outcome.error
    return diag.placement(outcome.model)


def _table_by(table: Any, by: str) -> Any:
    from diag.models import totals

    return {"device": totals.by_device, "layer": totals.by_layer, "tensor": lambda same: same}[by](table)


def _print_placement(spec: LoadSpec, table: Any, frame: Any, by: str) -> None:
    from diag.views import plots, rows

    if by == "layer":
        print(visible(f"{spec.model}\n{plots.strips_of({rows.plain_label([rows.described(spec)]): table}).text}\n"))
    print(visible(frame.to_string(index=False)))


def _model(options: argparse.Namespace) -> str:
    names = [name for name in (options.model_name, options.model) if name is not None]
    if len(set(names)) == 1:
        return names[0]
    why = "none was given." if not names else f"two were given: {' and '.join(names)}."
    raise SpecError("one model is needed.", why=why, next_step=f"diag {options.command} --model smollm2")


def _several(values: list[str] | None) -> list[Any]:
    """Values of a repeatable option, each one value, a list with commas or blanks, or JSON."""
    return [item for value in values or [] for item in parse_list(value, "a list")]


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise SpecError(
            f"-p {text!r} is not a parameter.",
            why="it is written NAME=VALUE.",
            next_step=f"-p {name.strip() or 'rows'}=VALUE: papermill's `-p NAME VALUE` with a sign between",
        )
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        return name.strip(), value


def _json_value(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise SpecError(f"{what}: {text!r} is not valid JSON.", why=str(e), next_step="check quotes and braces.") from e


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_json(value: Any) -> None:
    from diag.views.files import redacted

    print(json.dumps(redacted(value), indent=1, ensure_ascii=False))
