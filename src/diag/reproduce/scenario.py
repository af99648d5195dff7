"""A failure as a play: named, explained steps that a notebook can take one at a time, and what they left behind."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import shutil
import tempfile
import textwrap
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diag.diagnosis.cause import Cause
from diag.errors import DiagError
from diag.values.finding import Findings
from diag.values.spec import LoadSpec


@dataclass(frozen=True)
class Step:
    """One action: `name` is build, load, break or run; `says` why it is done; `act` does it on the stage."""

    name: str
    says: str
    act: Callable[[Stage], Any] = field(repr=False)

    @property
    def code(self) -> str:
        """What the step runs, as source lines without the function around them."""
        lines = inspect.getsource(self.act).splitlines()
        body = next(n for n, line in enumerate(lines) if line.rstrip().endswith(":")) + 1
        body += lines[body].strip().startswith('"""')
        return textwrap.dedent("\n".join(lines[body:]))


@dataclass(frozen=True)
class Scenario:
    """The real failure behind one cause. `silent`: there is no exception, the answer is wrong.

    `hardware` is the simulated machine it needs, None for the CPU alone; `sample` is the model it plays with.
    `teaches` says in a sentence what to look at. `asked` are the LoadSpec fields of the load that
    fails. `variant` tells several scenarios of one cause apart.
    """

    cause: str
    teaches: str
    steps: tuple[Step, ...]
    silent: bool = False
    hardware: str | None = None
    sample: str = "tiny"
    variant: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.cause}/{self.variant}" if self.variant else self.cause

    def start(self) -> Stage:
        """A stage on which the steps can be played one at a time."""
        return Stage(self)

    def run(self) -> Stage:
        """Plays all steps; an exception of the last ones is kept on the stage, not raised."""
        stage = self.start()
        while not stage.finished:
            stage.play()
        return stage

    def entry(self) -> Cause:
        from diag.diagnosis import causes

        return causes.get(self.cause)


@dataclass(frozen=True)
class Played:
    """What one step did: `error` is the exception's text where it raised, `shows` what it returned, as text."""

    step: Step
    seconds: float
    shows: str = ""
    error: str = ""

    def __str__(self) -> str:
        result = f"raised {self.error}" if self.error else self.shows
        return (
            f"[{self.step.name}] {self.step.says}\n{textwrap.indent(self.step.code, '    ')}\n  -> {result or 'done'}"
        )


class Stage(SimpleNamespace):
    """Where a scenario plays: a private copy of the checkpoint, the model, inputs, and what was raised.

    Steps set `model`, `inputs`, `spec` and `text`; `reference` is the right answer, `answer` what the broken model
    gave. The folder goes when the stage is closed or dropped.
    """

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario=scenario, model=None, inputs=None, spec=None, error=None, text=None, reference=None,
                         answer=None, notes=[], played=[])  # fmt: skip
        self.folder = Path(tempfile.mkdtemp(prefix="diag-scenario-"))
        self._clean = weakref.finalize(self, shutil.rmtree, str(self.folder), ignore_errors=True)

    __hash__ = object.__hash__  # type: ignore[assignment]

    @property
    def finished(self) -> bool:
        return self.error is not None or len(self.played) == len(self.scenario.steps)

    def checkpoint(self) -> Path:
        """A private copy of the sample, so that steps may damage it."""
        from diag.loading import samples

        target = self.folder / "checkpoint"
        if not target.exists():
            shutil.copytree(samples.path(self.scenario.sample), target)
        return target

    def play(self) -> Played:
        """Takes the next step. Raises DiagError after the last."""
        if self.finished:
            raise DiagError("the scenario is over.", next_step="start a new one: reproduce.get(cause).start().")
        step = self.scenario.steps[len(self.played)]
        start, shows, text = time.perf_counter(), "", ""
        with _quiet(self.notes), _hardware(self.scenario.hardware):
            try:
                shows = _as_text(step.act(self))
            except Exception as error:
                self.error = error
                text = f"{type(error).__name__}: {error}"
        played = Played(step, time.perf_counter() - start, shows, text)
        self.played.append(played)
        return played

    def diagnose(self) -> Findings:
        """What diag says about the result, from the model, the exception or the text that the steps left."""
        from diag.diagnosis.engine import diagnose

        if self.model is None and self.error is None:
            return diagnose(text=self.text)
        return diagnose(self.model, error=self.error, spec=self.spec or self._asked())

    def _asked(self) -> LoadSpec | None:
        asked = self.scenario.asked
        return LoadSpec(str(self.checkpoint()), hardware=self.scenario.hardware, **asked) if asked else None

    @property
    def is_wrong(self) -> bool:
        """Whether the silent scenario's answer differs from the right one."""
        import torch

        if self.reference is None or self.answer is None:
            return False
        return not torch.allclose(self.reference, self.answer.to("cpu"), rtol=1e-4, atol=1e-5, equal_nan=False)

    def close(self) -> None:
        self._clean()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


@contextlib.contextmanager
def _hardware(hardware: str | None) -> Iterator[None]:
    from diag.machine.here import use_hardware
    from diag.values.hardware import Hardware

    use_hardware(None if hardware is None else Hardware.parse(hardware))
    yield


@contextlib.contextmanager
def _quiet(notes: list[str]) -> Iterator[None]:
    """Collects what the libraries warn about; progress bars are not shown."""
    from diag.loading.notes import collecting

    with collecting(notes), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        try:
            with without_bars():
                yield
        finally:
            logging.disable(before)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers: in a notebook they are widgets, which redirecting stderr does not catch."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def steps(*pairs: tuple[str, str, Callable[[Stage], Any]]) -> tuple[Step, ...]:
    """Steps from (name, says, act)."""
    return tuple(Step(*pair) for pair in pairs)
