"""Progress of a matrix: a bar where somebody watches, one plain line per finished cell everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from diag.machine.audience import somebody_watches
from diag.sweep.results.comparison import row_name
from diag.sweep.results.store import Row

if TYPE_CHECKING:
    from tqdm import tqdm


class Progress:
    """Counts rows, as a bar that tqdm draws or as lines."""

    def __init__(self, total: int, shown: bool, on_row: Callable[[Row], None] | None = None) -> None:
        self._total, self.shown, self._on_row = total, shown, on_row
        self._done = 0
        self._start = time.perf_counter()
        self._bar: tqdm | None = None
        if shown and somebody_watches():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit="row")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def row(self, row: Row, from_file: bool = False) -> None:
        """One row is known."""
        self._done += 1
        text = f"{row_name(row)}: {row['status']}"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        else:
            self.say(f"{self._done}/{self._total} {text}{' (stored)' * from_file}")
        if self._on_row is not None:
            self._on_row(row)

    def say(self, text: str) -> None:
        if self.shown and self._bar is not None:
            self._bar.write(text)
        elif self.shown:
            print(f"[{time.perf_counter() - self._start:6.1f} s] {text}", file=sys.stderr, flush=True)
