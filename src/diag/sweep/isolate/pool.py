"""Calls in processes of their own: whatever one of them does, its neighbours and the caller go on.

The processes never import the caller's `__main__`, so this works from a script without a main guard, from a notebook
and from standard input. They see the caller's environment, folder and `sys.path` as they are at the call.
"""

from __future__ import annotations

import os
import pickle
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from diag.errors import DiagError
from diag.sweep.isolate import launch
from diag.sweep.isolate.deaths import Death, death_of, is_out_of_memory
from diag.sweep.isolate.wire import Answer, Call, Failure, Report
from diag.values.exits import death_name

__all__ = ["HEAVY", "Death", "Ended", "Task", "is_out_of_memory", "run"]

# What nearly every load imports. Nothing here may initialise CUDA or import bitsandbytes.
HEAVY = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "accelerate",
    "safetensors.torch",
    "pandas",
    "diag.sweep.isolate.warm",
)
_POLL_SECONDS = 0.2
_FOREVER = 1e8  # seconds, about three years; the system's clocks do not take much more


@dataclass(frozen=True)
class Task:
    """`function` is "package.module:function", called in the child as function(argument); `timeout` in seconds."""

    key: str
    function: str
    argument: Any
    timeout: float | None = None

    def __post_init__(self) -> None:
        _check_positive("timeout", self.timeout)


@dataclass(frozen=True)
class Ended:
    """How a task ended: its value, or its death. `log` is the end of what it wrote to stdout and stderr."""

    key: str
    value: Any = None
    death: Death | None = None
    seconds: float = 0.0
    log: str = ""


def run(
    tasks: Iterable[Task],
    *,
    workers: int = 1,
    preload: Sequence[str] = HEAVY,
    threads: int | None = None,
    memory_limit: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[Ended]:
    """Call each task's function in a process of its own, `workers` at a time, and yield each as it ends.

    `threads` limits the threads of a child; `memory_limit` the private memory, in bytes, that it may take on top of
    what it starts with (Linux). Every task gives one `Ended`: a dead one has a `Death`, and those that `cancelled`
    stopped or kept from starting are `not_run`. The next task is taken before an ended one is yielded.
    A KeyboardInterrupt, and closing the iterator, kill what runs; what had ended by then is still yielded before
    KeyboardInterrupt is raised again. A child's temporary files and its own processes end with it.
    Raises DiagError when no process can be started at all, or for a number below what makes sense.
    """
    for name, value in (("workers", workers), ("threads", threads), ("memory_limit", memory_limit)):
        _check_positive(name, value)
    environ = dict(os.environ)
    return _Run(iter(tasks), workers, tuple(preload), threads, memory_limit, cancelled, environ).ended()


@dataclass
class _Run:
    """One call of `run`, while it lasts."""

    tasks: Iterator[Task]
    workers: int
    preload: tuple[str, ...]
    threads: int | None
    memory_limit: int | None
    cancelled: Callable[[], bool] | None
    environ: dict[str, str]
    running: dict[int, Task] = field(default_factory=dict)
    count: int = 0
    launcher: launch.Launcher | None = None

    def ended(self) -> Iterator[Ended]:
        try:
            yield from self._all()
        except KeyboardInterrupt:
            yield from self._already_there()
            raise
        finally:
            self._close()

    def _all(self) -> Iterator[Ended]:
        yield from self._fill()
        while self.running and not self._is_cancelled():
            report = self._next_report()
            if report is None:
                continue
            ended = [self._ended(report)] if isinstance(report, Report) else self._lost(report)
            yield from ended + self._fill()
        if self._is_cancelled():
            yield from self._cancel()
        elif self.launcher is not None:
            launch.give_back(self.launcher)
            self.launcher = None

    def _is_cancelled(self) -> bool:
        return self.cancelled is not None and self.cancelled()

    def _next_report(self) -> Report | launch.Lost | None:
        assert self.launcher is not None
        try:
            return self.launcher.reports.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return None

    def _fill(self) -> list[Ended]:
        """Start tasks while there is room; gives those that could not even be sent."""
        refused: list[Ended] = []
        while len(self.running) < self.workers and not self._is_cancelled():
            task = next(self.tasks, None)
            if task is None:
                break
            try:
                argument = pickle.dumps(task.argument)
            except Exception as e:
                text = f"The argument of {task.function} can't be sent to a process: {type(e).__name__}: {e}"
                refused.append(Ended(task.key, death=Death("raised", type(e).__name__, text)))
                continue
            self._start(task, argument)
        return refused

    def _start(self, task: Task, argument: bytes) -> None:
        self.launcher = self.launcher or launch.take(self.preload)
        self.count += 1
        self.running[self.count] = task
        timeout = None if task.timeout is None or task.timeout > _FOREVER else task.timeout
        self.launcher.start(
            Call(self.count, task.function, argument, timeout, self.threads, self.memory_limit, self.environ)
        )

    def _ended(self, report: Report) -> Ended:
        task = self.running.pop(report.ident)
        answer = _open(report.answer, task)
        death = death_of(report, answer)
        value = answer.value if answer is not None and death is None else None
        return Ended(task.key, value, death, report.seconds, report.log.decode(errors="replace"))

    def _lost(self, lost: launch.Lost) -> list[Ended]:
        """The supervisor died and its cells with it: they are lost, the next ones get a new supervisor."""
        log = lost.log.decode(errors="replace").strip()
        if not lost.ready:
            raise DiagError(
                f"The process that starts the cells ended with {death_name(lost.exitcode)} at its start.",
                why=log[-2000:] or "it wrote nothing.",
                next_step=f"see whether this works: python -c 'import {', '.join(self.preload)}'",
            )
        name = death_name(lost.exitcode)
        death = Death("killed", name, f"The process that starts the cells ended with {name}, and this cell with it.")
        ended = [Ended(task.key, death=death) for task in self.running.values()]
        self.running.clear()
        self._close()
        return ended

    def _cancel(self) -> Iterator[Ended]:
        yield from self._already_there()
        for task in self.running.values():
            yield Ended(task.key, death=Death("not_run", "cancelled", "Cancelled while it ran; it was stopped."))
        for task in self.tasks:
            yield Ended(task.key, death=Death("not_run", "cancelled", "Cancelled before it began."))

    def _already_there(self) -> Iterator[Ended]:
        """Stop everything; what had ended before that is not lost."""
        launcher, self.launcher = self.launcher, None
        if launcher is not None:
            launcher.close()
            while not launcher.reports.empty():
                report = launcher.reports.get()
                if isinstance(report, Report):
                    yield self._ended(report)

    def _close(self) -> None:
        if self.launcher is not None:
            self.launcher.close()
            self.launcher = None


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise DiagError(f"{name}={value!r} runs nothing.", next_step="give a number above 0, or None for no limit.")


def _open(data: bytes | None, task: Task) -> Answer | None:
    """The child's answer; where it needs something that the caller can't import, that is the failure."""
    if data is None:
        return None
    try:
        return pickle.loads(data)
    except Exception as e:
        text = f"The result of {task.function} can't be read here: {type(e).__name__}: {e}"
        return Answer(failure=Failure(type(e).__name__, text))
