"""What a command of `diag` is: its help, its options, what it runs and the exit codes it promises."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Work = Callable[[argparse.Namespace], int]
AddOptions = Callable[[argparse.ArgumentParser], object]


@dataclass(frozen=True)
class Command:
    """`run` does the work; its docstring, name and `example` are the help; `exits` says what each exit code means.

    `add_options` is called for the command that was asked for and for no other, so that `diag explain` never imports
    what only another command needs.
    """

    run: Work
    example: str
    exits: str
    add_options: AddOptions | None = None
    has_json: bool = True

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def epilog(self) -> str:
        return f"example: {self.example}\n\nexit codes: {self.exits}"


def command(
    example: str, exits: str, options: AddOptions | None = None, has_json: bool = True
) -> Callable[[Work], Command]:
    """Makes a command of the function below, under its name."""
    return lambda run: Command(run, example, exits, options, has_json)


def argument(name: str, **how: Any) -> AddOptions:
    """Adds one positional argument: for commands that take no more."""
    return lambda parser: parser.add_argument(name, **how)


def print_json(value: object) -> None:
    """Prints a value as JSON without tokens, passwords and home paths."""
    from diag.views.files import redacted

    print(json.dumps(redacted(value), indent=1, ensure_ascii=False))
