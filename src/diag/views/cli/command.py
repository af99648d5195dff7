"""What a command of `diag` is: its help, its options, what it runs and the exit codes it promises."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

from diag.values.text import sentence


@dataclass(frozen=True)
class Command:
    """`does` and `example` are for the help; `exits` says what each exit code means; `run` does the work.

    `add_options` is called for the command that was asked for and for no other, so that `diag explain` never imports
    what only another command needs.
    """

    name: str
    does: str
    example: str
    exits: str
    run: Callable[[argparse.Namespace], int]
    add_options: Callable[[argparse.ArgumentParser], None] | None = None
    has_json: bool = True

    @property
    def description(self) -> str:
        """`does` as a sentence."""
        return sentence(self.does)

    @property
    def epilog(self) -> str:
        return f"example: {self.example}\n\nexit codes: {self.exits}"


def print_json(value: object) -> None:
    """Prints a value as JSON without tokens, passwords and home paths."""
    from diag.views.files import redacted

    print(json.dumps(redacted(value), indent=1, ensure_ascii=False))
