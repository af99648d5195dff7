"""The commands explain, causes, reproduce and service. Explaining a text needs the standard library only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diag.errors import SpecError
from diag.values.exits import Exit
from diag.values.text import visible
from diag.views.cli.command import argument, command, print_json

if TYPE_CHECKING:
    from diag.reproduce import Stage

_EXPLAINED = "0 explained · 2 the text can't be read · 3 no known cause"
_REPRODUCED = (
    "0 diagnosed as itself · 1 diagnosed as something else · 2 there is no such scenario · 3 it can't be shown here"
)
_SERVED = "0 ended with Ctrl-C · 2 wrong usage · 3 the server did not come up"
_FILE = argument("file", nargs="?", default="-", metavar="FILE", help="a file (default: standard input)")
_CAUSE = argument("cause", nargs="?", metavar="ID", help="the id of a cause (default: list all of them)")
_SCENARIO = argument("name", nargs="?", metavar="CAUSE", help="a cause or cause/variant (default: list them)")


@command("diag explain error.txt      curl … | diag explain --json", _EXPLAINED, _FILE)
def explain(options: argparse.Namespace) -> Exit:
    """Says what is behind a pasted error, log or HTTP 500 body."""
    from diag.diagnosis.explain import as_json, decode, explain_text, render

    text = decode(_bytes_of(options.file))
    if not text.strip():
        source = "standard input" if options.file == "-" else repr(options.file)
        hint = "give the whole error, best with its traceback and the log before it."
        raise SpecError("there is no text to explain.", why=f"{source} is empty.", next_step=hint)
    found = explain_text(text)
    if options.json:
        print_json(as_json(found))
    else:
        print(visible(render(found)))
    return Exit.NOT_JUDGED if found[0].is_unknown else Exit.AS_EXPECTED


def _bytes_of(file: str) -> bytes:
    if file != "-":
        try:
            return Path(file).read_bytes()
        except (OSError, ValueError) as error:
            why = f"{getattr(error, 'strerror', None) or error}."
            hint = "name a file, or run `diag explain`, paste the text and press Ctrl-D."
            raise SpecError(f"{file!r} can't be read.", why=why, next_step=hint) from error
    if sys.stdin is None or sys.stdin.closed:
        return b""
    if sys.stdin.isatty():
        print("Paste the error or the log, then press Ctrl-D (Ctrl-Z and Enter on Windows).", file=sys.stderr)
    return sys.stdin.buffer.read()


@command("diag causes hooks-removed", "0 shown · 2 there is no such cause", _CAUSE)
def causes(options: argparse.Namespace) -> Exit:
    """Lists every cause that diag knows, or explains one."""
    from diag.diagnosis import causes as catalogue

    chosen = [catalogue.get(cause) for cause in ([options.cause] if options.cause else catalogue.ids())]
    if options.json:
        entries = [{**asdict(entry), "links": list(entry.links)} for entry in chosen]
        print_json(entries[0] if options.cause else entries)
    elif options.cause:
        print(chosen[0])
    else:
        width = max(len(entry.id) for entry in chosen)
        print("\n".join(f"{entry.id:<{width}}  {entry.title}" for entry in chosen))
    return Exit.AS_EXPECTED


@command("diag reproduce hooks-removed", _REPRODUCED, _SCENARIO)
def reproduce(options: argparse.Namespace) -> Exit:
    """Makes a failure happen for real, step by step, and diagnoses it."""
    from diag import reproduce as plays

    if options.name:
        with plays.get(options.name).start() as stage:
            return _play(stage, options.json)
    shown, missing = list(plays.names()), plays.not_shown()
    if options.json:
        print_json({"scenarios": shown, "not_shown": missing})
    else:
        print("\n".join([*shown, *(f"{cause}: not shown here, {why}" for cause, why in missing.items())]))
    return Exit.AS_EXPECTED


def _play(stage: Stage, as_json: bool) -> Exit:
    """Each step as it happens, then the findings, the fix and its proof; as JSON all of it at the end."""
    from diag.diagnosis.explain import as_json as findings_as_json
    from diag.reproduce.advice import apply_fix

    say: Callable[[object], None] = (lambda _: None) if as_json else (lambda said: print(visible(said), flush=True))
    say(f"{stage.scenario.name}: {stage.scenario.teaches}\n")
    while not stage.finished:
        say(f"{stage.play()}\n")
    found = stage.diagnose()
    say(f"{found}\n")
    done = apply_fix(found)
    say(f"Fix:    {done.fix}\nResult: {done.verdict}: {done.proof}")
    if as_json:
        steps = []
        for one in stage.played:
            step = {"step": one.step.name, "says": one.step.says, "code": one.step.code}
            steps.append({**step, "shows": one.shows, "error": one.error})
        ended = {"findings": findings_as_json(found), "fixed": asdict(done)}
        print_json({"scenario": stage.scenario.name, "steps": steps, **ended})
    return Exit.AS_EXPECTED if found and found[0].cause == stage.scenario.cause else Exit.WORSE


def _service_options(parser: argparse.ArgumentParser) -> None:
    from diag.reproduce.service import MISTAKES

    wrong = "; ".join(f"{name}: {what}" for name, what in MISTAKES.items())
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="a model or a sample (default: tiny)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: 8000)")
    parser.add_argument("--mistake", choices=MISTAKES, default="none", help=wrong)


@command("DEVICE_MAP=disk diag service --mistake hooks-lost", _SERVED, _service_options, has_json=False)
def service(options: argparse.Namespace) -> Exit:
    """Serves a small model on 127.0.0.1 by DEVICE_MAP and QUANTIZE, with mistakes to learn from."""
    from diag.reproduce.service import run_service

    run_service(options.model, port=options.port, mistake=options.mistake)
    return Exit.AS_EXPECTED
