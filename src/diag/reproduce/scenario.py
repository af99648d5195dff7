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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diag.errors import DiagError
from diag.machine.audience import without_bars
from diag.values.finding import Findings
from diag.values.hardware import Hardware
from diag.values.spec import LoadSpec

if TYPE_CHECKING:
    import torch


StepName = Literal["build", "load", "break", "run"]


@dataclass(frozen=True)
class Step:
    """One action: `says` tells why it is done; `act` does it on the stage and may return what there is to see."""

    name: StepName
    says: str
    act: Callable[[Stage], object] = field(repr=False)

    @property
    def code(self) -> str:
        """The source lines inside the function."""
        lines = inspect.getsource(self.act).splitlines()
        body = next(n for n, line in enumerate(lines) if line.rstrip().endswith(":")) + 1
        body += lines[body].strip().startswith('"""')
        return textwrap.dedent("\n".join(lines[body:]))

    def saying(self, says: str) -> Step:
        """The same action, told in other words."""
        return replace(self, says=says)


def step(name: StepName, says: str) -> Callable[[Callable[[Stage], object]], Step]:
    """Makes a step of a function of the stage: `@step("break", "Take the hooks off.")`."""
    return lambda act: Step(name, says, act)


@dataclass(frozen=True)
class Scenario:
    """The real failure behind one cause. It may end in an exception; `silent` ones end in a wrong answer.

    All play with the sample `tiny`. `name` is the cause, or `cause/variant` for a further scenario of it. `teaches`
    says in a sentence what to look at. `hardware` is the simulated machine it needs, None for the CPU alone. `asked`
    are the LoadSpec fields of the load that fails.
    """

    name: str
    teaches: str
    steps: tuple[Step, ...]
    silent: bool = False
    hardware: str | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cause(self) -> str:
        return self.name.partition("/")[0]

    def start(self) -> Stage:
        """A stage on which the steps can be played one at a time."""
        return Stage(self)

    def run(self) -> Stage:
        """Plays all steps; an exception of the last ones is kept on the stage, not raised."""
        stage = self.start()
        while not stage.finished:
            stage.play()
        return stage


@dataclass(frozen=True)
class Played:
    """What one step did: `error` is the exception's text where it raised, `shows` what it returned, as text."""

    step: Step
    seconds: float
    shows: str = ""
    error: str = ""

    def __str__(self) -> str:
        code = textwrap.indent(self.step.code, "    ")
        result = f"raised {self.error}" if self.error else self.shows or "done"
        return f"[{self.step.name}] {self.step.says}\n{code}\n  -> {result}"


class Stage:
    """Where a scenario plays: a private copy of the checkpoint, the model, its inputs, and what was raised.

    Steps set `model`, `inputs`, `spec` and `text`; `reference` is the right answer, `answer` what the broken model
    gave. The folder goes when the stage is closed or dropped.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.model: Any = None
        self.inputs: dict[str, torch.Tensor] | None = None
        self.spec: LoadSpec | None = None
        self.error: Exception | None = None
        self.text: str | None = None
        self.reference: torch.Tensor | None = None
        self.answer: torch.Tensor | None = None
        self.notes: list[str] = []
        self.played: list[Played] = []
        self.folder = Path(tempfile.mkdtemp(prefix="diag-scenario-"))
        self._clean = weakref.finalize(self, shutil.rmtree, str(self.folder), ignore_errors=True)

    @property
    def finished(self) -> bool:
        return self.error is not None or len(self.played) == len(self.scenario.steps)

    def checkpoint(self) -> Path:
        """A private copy of the sample, so that steps may damage it."""
        from diag.loading import samples

        target = self.folder / "checkpoint"
        if not target.exists():
            shutil.copytree(samples.path("tiny"), target)
        return target

    def play(self) -> Played:
        """Takes the next step. Raises DiagError after the last."""
        from diag.machine.accelerators import use_hardware

        if self.finished:
            raise DiagError("the scenario is over.", next_step="start a new one: reproduce.get(cause).start().")
        step = self.scenario.steps[len(self.played)]
        start, shows, error = time.perf_counter(), "", ""
        hardware = self.scenario.hardware
        with quiet(self.notes):
            use_hardware(Hardware.parse(hardware) if hardware else None)
            try:
                returned = step.act(self)
                shows = "" if returned is None else str(returned)
            except Exception as raised:
                self.error = raised
                error = f"{type(raised).__name__}: {raised}"
        self.played.append(Played(step, time.perf_counter() - start, shows, error))
        return self.played[-1]

    def diagnose(self) -> Findings:
        """What diag says about the result, from the model, the exception or the text that the steps left."""
        from diag.diagnosis.engine import diagnose

        if self.model is None and self.error is None:
            return diagnose(text=self.text)
        spec = self.spec
        if spec is None and self.scenario.asked:
            asked = {"hardware": self.scenario.hardware, **self.scenario.asked}
            spec = LoadSpec(str(self.checkpoint()), **asked)
        return diagnose(self.model, error=self.error, spec=spec)

    @property
    def is_wrong(self) -> bool:
        """Whether the silent scenario's answer differs from the right one."""
        import torch

        if self.reference is None or self.answer is None:
            return False
        return not torch.allclose(self.reference, self.answer.to("cpu"), rtol=1e-4, atol=1e-5, equal_nan=False)

    def close(self) -> None:
        """Removes the folder; the model and what was raised stay."""
        self._clean()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def quiet(notes: list[str]) -> Iterator[None]:
    """Collects what the libraries warn about in `notes`; nothing of it is shown, nor are progress bars."""
    from diag.loading.notes import collecting

    with collecting(notes), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), without_bars():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        try:
            yield
        finally:
            logging.disable(before)
