"""The command line. Imports only the standard library until a command runs."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from diag import __version__
from diag.errors import DiagError, SpecError
from diag.values.exits import Exit
from diag.values.spec import PRESETS, QUANTIZATIONS
from diag.views.cli.explaining import add_commands

_EXITS = (
    "exit codes: 0 as expected · 1 worse than the baseline · 2 wrong usage · 3 could not judge (no access, network, "
    "disk, GPU held by others) · 4 the run died"
)


class UsageError(SpecError):
    """The command line itself is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (`Exit`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    started = None if argv is None else time.time()  # None: this process was started for this command
    try:
        return _run(arguments, started)
    except DiagError as error:
        return _complain(error, as_json)
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.AS_EXPECTED)
    except KeyboardInterrupt as interrupt:
        notes = " ".join(getattr(interrupt, "__notes__", []))
        print(f"diag: interrupted. {notes}".rstrip(), file=sys.stderr)
        return int(Exit.DIED)
    except OSError as error:
        return _complain(
            DiagError(f"{type(error).__name__}: {error}", next_step="check the path and the room."), as_json
        )
    except Exception:
        from diag.values.redact import redact

        print(redact(traceback.format_exc()), file=sys.stderr)
        print("diag: this is a fault of diag itself; the traceback above is safe to send.", file=sys.stderr)
        return int(Exit.DIED)


def _run(arguments: list[str], started: float | None) -> int:
    if arguments[:1] == ["lab"]:  # all the rest is for JupyterLab
        from diag.views.cli.lab import start_lab

        return start_lab(arguments[1:])
    options = _parser().parse_args(arguments)
    options.started = started
    from diag.views.cli import commands, explaining

    home: Any = explaining if options.command in explaining.COMMANDS else commands
    run: Callable[[argparse.Namespace], Exit] = getattr(home, options.command)
    return int(run(options))


def _complain(error: DiagError, as_json: bool) -> int:
    """One block on stderr, or one JSON object on stdout, and the exit code that goes with the error."""
    from diag.values.redact import redact

    code = Exit.WRONG_USAGE if isinstance(error, SpecError) else Exit.NOT_JUDGED
    if as_json:
        texts = {"what": error.what, "why": error.why, "next_step": error.next_step}
        said = {"type": type(error).__name__, **{key: redact(text) for key, text in texts.items()}}
        print(json.dumps({"error": said, "exit_code": int(code)}, indent=1))
    else:
        print(f"diag: {_plain(redact(str(error)))}", file=sys.stderr)
    return int(code)


def _plain(text: str) -> str:
    from diag.views.markup import visible

    return visible(text)


class _Parser(argparse.ArgumentParser):
    """Complains with a DiagError, so that `--json` holds for wrong usage too."""

    def error(self, message: str) -> NoReturn:
        advice = f"`{self.prog} --help` shows what it takes, with an example."
        if unknown := re.match(r"argument COMMAND: invalid choice: '([^']*)' \(choose from (.+)\)$", message):
            close = difflib.get_close_matches(unknown[1], re.findall(r"[\w-]+", unknown[2]), n=1)
            advice = f"did you mean `{self.prog} {close[0]}`?" if close else advice
        raise UsageError(f"{message}.", why=self.format_usage().strip(), next_step=advice)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="diag",
        description="Where every tensor of a Hugging Face model is, why, and which load configuration to use.",
        epilog=f"example: diag report --model smollm2\n\n{_EXITS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"diag {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_report(commands)
    _add_matrix(commands)
    _add_placement(commands)
    _add_diff(commands)
    add_commands(commands, _add)
    _add(commands, "env", "what this machine is: versions, devices, memory; works where torch is broken", "diag env")
    for name, text in (("lab", "opens JupyterLab on the notebooks"),):
        _add(commands, name, text, f"python -m diag {name}", json_option=False)
    return parser


def _add(commands: Any, name: str, text: str, example: str, *, json_option: bool = True) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text,
        description=f"{text[:1].upper()}{text[1:]}.",
        epilog=f"example: {example}\n\n{_EXITS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if json_option:
        command.add_argument("--json", action="store_true", help="print one JSON object or array instead of text")
    return command


def _add_report(commands: Any) -> None:
    command = _add(
        commands,
        "report",
        "loads a model under every combination and writes one HTML file",
        "diag report --model smollm2 --out reports/smollm2.html",
    )
    _add_grid(command)
    own = "a further parameter of that notebook; VALUE is JSON or text; may be repeated"
    option = command.add_argument
    option("--out", metavar="FILE", help="the HTML file (default: reports/MODEL.html)")
    option("--notebook", metavar="FILE", help="a notebook of your own in place of diag's report.ipynb")
    option("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help=own)
    whose = "make the page from a notebook that somebody else's papermill ran, or that died; loads nothing"
    option("--from", dest="from_notebook", metavar="NOTEBOOK", help=whose)
    _add_run(command)


def _add_matrix(commands: Any) -> None:
    command = _add(
        commands,
        "matrix",
        "loads a model under every combination and prints one row each",
        "diag matrix --model tiny --device-map auto,disk --quantization none,int8",
    )
    _add_grid(command)
    _add_run(command)


def _add_run(command: argparse.ArgumentParser) -> None:
    """How much is run, and what it is held against."""
    option = command.add_argument
    option("--plan", action="store_true", help="say what it would take (loads, bytes, disk) and stop there")
    option("--budget", metavar="TIME", help="after it no further load begins; the most informative come first")
    option("--max-loads", type=_count, metavar="N", help="at most so many loads; the most informative come first")
    option("--deadline", metavar="TIME", help="for the whole run, such as 90s, 30m or 2h")
    option("--yes", action="store_true", help="also if more than half of the host's memory would be held")
    option("--baseline", metavar="FILE", help="exit code 1 if a row got worse than in this file")
    new = "keep the rows as a baseline (default: the file of --baseline)"
    option("--write-baseline", nargs="?", const=True, metavar="FILE", help=new)
    option(
        "--retry-failed",
        action="store_true",
        help="do deaths again, however often they came",
    )
    option("--fresh", action="store_true", help="do every row again")
    option("--workers", type=_count, metavar="N", help="cells at a time (default: as many as the machine bears)")


def _count(text: str) -> int:
    """A whole number above zero, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def _add_diff(commands: Any) -> None:
    command = _add(
        commands,
        "diff",
        "says what changed between two results files: versions, maps, statuses, sizes, answers",
        "diag diff last-week.sqlite results.sqlite",
    )
    command.add_argument("old", metavar="OLD", help="the results file of the earlier run")
    command.add_argument("new", metavar="NEW", help="the results file of the later run")


def _add_placement(commands: Any) -> None:
    command = _add(
        commands,
        "placement",
        "loads a model once and says where every tensor is and who holds its data",
        "diag placement --model tiny --device-map disk --by device",
    )
    _add_model(command)
    option = command.add_argument
    option("--device-map", metavar="MAP", default="auto", help=f"{', '.join(PRESETS)}, or a map as JSON")
    option("--quantization", metavar="Q", default="none", help=", ".join(QUANTIZATIONS))
    option("--hardware", metavar="H", help="simulated GPUs, such as 2x300MiB+8GiB (default: this machine)")
    option("--dtype", metavar="D", default="auto", help="float32, bfloat16, … (default: the checkpoint's)")
    option("--max-memory", metavar="JSON", help='such as {"0": "20GiB", "cpu": "60GiB"}')
    option("--by", choices=("layer", "device", "tensor"), default="layer", help="one row each (default: layer)")
    option("--results", metavar="FILE", help="read the stored table of a matrix run instead of loading")


def _add_model(command: argparse.ArgumentParser) -> None:
    what = "a hub id, a local folder or a sample (tiny, smollm2, …)"
    command.add_argument("model_name", nargs="?", metavar="MODEL", help=what)
    command.add_argument("--model", metavar="MODEL", help="the same, as an option")


def _add_grid(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    several = "one or several with commas, or JSON; may be repeated"
    machines = "'this machine', or simulated GPUs such as 2x300MiB+8GiB; may be repeated"
    option = command.add_argument
    option("--device-map", action="append", metavar="MAPS", help=f"{several} (default: all of {', '.join(PRESETS)})")
    option("--quantization", action="append", metavar="QS", help=f"{several} (default: none, int8, nf4)")
    option("--hardware", action="append", metavar="H", help=machines)
    asked = "a prompt, a saved request (.json, .safetensors) or package.module:function (default: the model's own)"
    option("--probe", metavar="PROBE", help=asked)
    option("--loader", metavar="FUNCTION", help="package.module:function of yours in place of from_pretrained")
    option("--adapter", metavar="FOLDER", help="a PEFT adapter to put on after the load")
    option("--dtype", metavar="D", help="float32, bfloat16, … (default: the checkpoint's)")
    option("--max-memory", metavar="JSON", help='such as {"0": "20GiB", "cpu": "60GiB"}')
    option("--offload-folder", metavar="FOLDER", help="where weights for disk are written, where they are written")
    option("--timeout", metavar="TIME", default="600s", help="for each combination, such as 90s or 10m (default: 10m)")
    option("--results", metavar="FILE", help="the SQLite file that keeps the rows")
