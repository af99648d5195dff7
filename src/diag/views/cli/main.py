"""The command line: one command is run, and what goes wrong becomes one block of text and an exit code.

Imports only the standard library until a command runs.
"""

import argparse
import difflib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

from diag.errors import DiagError, SpecError
from diag.values.exits import Exit
from diag.values.redact import redact
from diag.values.text import visible
from diag.views.cli.commands import diff, env, matrix, placement, report
from diag.views.cli.explaining import causes, explain, reproduce, service
from diag.views.cli.lab import lab

_IN_ORDER = (report, matrix, placement, diff, explain, causes, reproduce, service, env, lab)
COMMANDS = {command.name: command for command in _IN_ORDER}
_AS_IS = argparse.RawDescriptionHelpFormatter


class UsageError(SpecError):
    """The command line itself is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (`Exit`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    started = None if argv is None else time.time()  # None: this process was started for this command
    try:
        if arguments[:1] == [lab.name]:  # what follows is for JupyterLab
            return int(lab.run(argparse.Namespace(arguments=arguments[1:])))
        options = _parser(arguments).parse_args(arguments, argparse.Namespace(started=started))
        return int(COMMANDS[options.command].run(options))
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
        hint = "check that the path exists and that the disk has room."
        return _complain(DiagError(f"{type(error).__name__}: {error}", next_step=hint), as_json)
    except Exception:
        print(redact(traceback.format_exc()), file=sys.stderr)
        print("diag: this is a fault of diag itself; the traceback above is safe to send.", file=sys.stderr)
        return int(Exit.DIED)


def _complain(error: DiagError, as_json: bool) -> int:
    """Prints one block on stderr, or one JSON object on stdout, and returns the exit code that goes with the error."""
    code = Exit.WRONG_USAGE if isinstance(error, SpecError) else Exit.NOT_JUDGED
    if as_json:
        texts = {"what": error.what, "why": error.why, "next_step": error.next_step}
        said = {"type": type(error).__name__, **{key: redact(text) for key, text in texts.items()}}
        print(json.dumps({"error": said, "exit_code": int(code)}, indent=1))
    else:
        print(f"diag: {visible(redact(str(error)))}", file=sys.stderr)
    return int(code)


class _Parser(argparse.ArgumentParser):
    """Complains with a DiagError, so that `--json` holds for wrong usage too."""

    def error(self, message: str) -> NoReturn:
        hint = f"`{self.prog} --help` shows what it takes, with an example."
        if unknown := re.match(r"argument COMMAND: invalid choice: '([^']*)'", message):
            close = difflib.get_close_matches(unknown[1], COMMANDS, n=1)
            hint = f"did you mean `{self.prog} {close[0]}`?" if close else hint
        raise UsageError(f"{message}.", why=self.format_usage().strip(), next_step=hint)


class _Version(argparse.Action):
    """Prints the installed version, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"diag {version('diag')}")
        parser.exit()


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Knows every command, and the options of the one that is asked for."""
    parser = _Parser(
        prog="diag",
        description="Says where every tensor of a Hugging Face model is and why, and which way of loading it works.",
        epilog=f"{report.epilog}\n\n`diag COMMAND --help` shows the options of a command and its own exit codes.",
        formatter_class=_AS_IS,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show diag's version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        said = command.run.__doc__ or ""
        summary = said[:1].lower() + said[1:].removesuffix(".")
        own = commands.add_parser(name, help=summary, description=said, epilog=command.epilog, formatter_class=_AS_IS)
        if command.has_json:
            own.add_argument("--json", action="store_true", help="print one JSON object or array instead of text")
        if name == asked and command.add_options is not None:
            command.add_options(own)
    return parser
