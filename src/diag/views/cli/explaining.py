"""The commands explain, causes, reproduce and service. Explaining a text needs the standard library only."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diag.errors import SpecError
from diag.values.exits import Exit
from diag.views.cli.mistakes import MISTAKES
from diag.views.markup import visible

_EXITS = {
    "explain": "exit codes: 0 explained · 2 the text can't be read · 3 no known cause",
    "causes": "exit codes: 0 shown · 2 there is no such cause",
    "reproduce": "exit codes: 0 diagnosed as itself · 1 diagnosed as something else · 2 there is no such scenario · "
    "3 it can't be shown here",
    "service": "exit codes: 0 ended with Ctrl-C · 2 wrong usage · 3 the server did not come up",
}
COMMANDS = tuple(_EXITS)

Add = Callable[..., argparse.ArgumentParser]


def add_commands(commands: Any, add: Add) -> None:
    """Registers the four commands; `add` makes one with its help text and example."""
    command = _add(commands, add, "explain", "says what is behind a pasted error, log or HTTP 500 body",
                   "diag explain error.txt      curl … | diag explain --json")  # fmt: skip
    command.add_argument("file", nargs="?", default="-", metavar="FILE", help="a file (default: standard input)")
    command = _add(commands, add, "causes", "lists every cause that is known here, or explains one",
                   "diag causes hooks-removed")  # fmt: skip
    command.add_argument("cause", nargs="?", metavar="ID", help="a cause, such as hooks-removed (default: all of them)")
    command = _add(commands, add, "reproduce", "makes a failure happen for real, step by step, and diagnoses it",
                   "diag reproduce hooks-removed")  # fmt: skip
    command.add_argument("name", nargs="?", metavar="CAUSE", help="a cause or cause/variant (default: list them)")
    _add_service(commands, add)


def _add(commands: Any, add: Add, name: str, text: str, example: str, **options: Any) -> argparse.ArgumentParser:
    command = add(commands, name, text, example, **options)
    command.epilog = f"example: {example}\n\n{_EXITS[name]}"
    return command


def _add_service(commands: Any, add: Add) -> None:
    text = "serves a small model on 127.0.0.1 by DEVICE_MAP and QUANTIZE, with mistakes to learn from"
    example = "DEVICE_MAP=disk diag service --mistake hooks-lost"
    wrong = "; ".join(f"{name}: {what}" for name, what in MISTAKES.items())
    command = _add(commands, add, "service", text, example, json_option=False)
    command.add_argument("--model", default="tiny", metavar="MODEL", help="a model or a sample (default: tiny)")
    command.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: 8000)")
    command.add_argument("--mistake", choices=MISTAKES, default="none", help=wrong)


def explain(options: argparse.Namespace) -> Exit:
    """Ranked causes of a text, each with its fix; 3 where it is none of those known here."""
    from diag.diagnosis.explain import as_json, decode, explain_text, render

    text = decode(_bytes_of(options.file))
    if not text.strip():
        raise SpecError("there is no text to explain.", why=f"{_named(options.file)} is empty.",
                        next_step="give the whole error, best with its traceback and the log before it.")  # fmt: skip
    found = explain_text(text)
    if options.json:
        _print_json(as_json(found))
    else:
        print(visible(render(found)))
    return Exit.NOT_JUDGED if found[0].cause == "unknown" else Exit.AS_EXPECTED


def _bytes_of(file: str) -> bytes:
    if file != "-":
        try:
            return Path(file).read_bytes()
        except (OSError, ValueError) as error:
            why = f"{getattr(error, 'strerror', None) or error}."
            advice = "name a file, or run `diag explain`, paste the text and press Ctrl-D."
            raise SpecError(f"{file!r} can't be read.", why=why, next_step=advice) from error
    if sys.stdin is None or sys.stdin.closed:
        return b""
    if sys.stdin.isatty():
        print("Paste the error or the log, then press Ctrl-D (Ctrl-Z and Enter on Windows).", file=sys.stderr)
    return sys.stdin.buffer.read()


def _named(file: str) -> str:
    return "standard input" if file == "-" else repr(file)


def causes(options: argparse.Namespace) -> Exit:
    """The catalogue, one line each, or one entry of it in full."""
    from diag.diagnosis.causes import catalogue

    chosen = [catalogue.get(cause) for cause in ([options.cause] if options.cause else catalogue.ids())]
    if options.json:
        entries = [_entry_as_json(entry) for entry in chosen]
        _print_json(entries[0] if options.cause else entries)
    elif options.cause:
        print(chosen[0])
    else:
        width = max(len(entry.id) for entry in chosen)
        print("\n".join(f"{entry.id:<{width}}  {entry.title}" for entry in chosen))
    return Exit.AS_EXPECTED


def _entry_as_json(entry: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(entry), "links": list(entry.links)}


def reproduce(options: argparse.Namespace) -> Exit:
    """Plays a scenario, each step as it happens, says what diag finds and fixes; without a name: which there are."""
    from diag import reproduce as plays

    if not options.name:
        shown, missing = list(plays.names()), plays.not_shown()
        if options.json:
            _print_json({"scenarios": shown, "not_shown": missing})
        else:
            print("\n".join([*shown, *(f"{cause}: not shown here, {why}" for cause, why in missing.items())]))
        return Exit.AS_EXPECTED
    with plays.get(options.name).start() as stage:
        return _play(stage, options.json)


def _play(stage: Any, as_json: bool) -> Exit:
    from dataclasses import asdict

    from diag.diagnosis.explain import as_json as findings_as_json
    from diag.reproduce.advice import apply_fix

    if not as_json:
        print(f"{stage.scenario.name}: {stage.scenario.teaches}\n", flush=True)
    while not stage.finished:
        played = stage.play()
        if not as_json:
            print(visible(f"{played}\n"), flush=True)
    found = stage.diagnose()
    if not as_json:
        print(visible(f"{found}\n"), flush=True)
    done = apply_fix(found)
    if as_json:
        steps = [{"step": p.step.name, "says": p.step.says, "code": p.step.code, "shows": p.shows, "error": p.error}
                 for p in stage.played]  # fmt: skip
        _print_json({"scenario": stage.scenario.name, "steps": steps, "findings": findings_as_json(found),
                     "fixed": asdict(done)})  # fmt: skip
    else:
        print(visible(f"Fix:    {done.fix}\nResult: {done.verdict}: {done.proof}"))
    return Exit.AS_EXPECTED if found and found[0].cause == stage.scenario.cause else Exit.WORSE


def service(options: argparse.Namespace) -> Exit:
    """Serves until it is interrupted."""
    from diag.views.cli.service import run_service

    run_service(options.model, port=options.port, mistake=options.mistake)
    return Exit.AS_EXPECTED


def _print_json(value: Any) -> None:
    from diag.views.files import redacted

    print(json.dumps(redacted(value), indent=1, ensure_ascii=False))
