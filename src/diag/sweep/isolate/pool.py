"""Calls in processes of their own: whatever one of them does, its neighbours and the caller go on.

The processes never import the caller's `__main__`, so this works from a script without a main guard, from a notebook
and from standard input. They see the caller's environment, folder and `sys.path` as they are at the call.
"""

import os
import pickle
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from diag.errors import DiagError
from diag.sweep.isolate import launch
from diag.sweep.isolate.deaths import Death, ProcessEnd, Reply, death_of
from diag.sweep.isolate.wire import Call
from diag.values.exits import death_name

# What nearly every load imports. Nothing here may initialise CUDA or import bitsandbytes.
HEAVY = tuple(
    "torch transformers.modeling_utils transformers.models.auto.modeling_auto transformers.generation.utils "
    "transformers.models.auto.tokenization_auto transformers.models.llama.modeling_llama accelerate safetensors.torch "
    "pandas".split()
)
_POLL_SECONDS = 0.2
_FOREVER = 1e8  # seconds, about three years; the system's clocks do not take much more


@dataclass(frozen=True)
class Task:
    """One call. `function` is a function of a module, or "package.module:function"; the child calls it with `argument`.
    `timeout` is in seconds."""

    key: str
    function: str | Callable[..., object]
    argument: object
    timeout: float | None = None

    def __post_init__(self) -> None:
        _check_positive("timeout", self.timeout)

    @property
    def function_name(self) -> str:
        """The function as the child finds it, `package.module:function`."""
        if isinstance(self.function, str):
            return self.function
        return f"{self.function.__module__}:{self.function.__qualname__}"


@dataclass(frozen=True)
class Ended:
    """How a task ended: its value, or its death. `log` is the end of what it wrote to stdout and stderr."""

    key: str
    value: object = None
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
    cancelled: Callable[[], bool] = lambda: False,
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
    return _Pool(iter(tasks), workers, tuple(preload), threads, memory_limit, cancelled, environ).ended()


@dataclass
class _Pool:
    """One call of `run`, while it lasts."""

    tasks: Iterator[Task]
    workers: int
    preload: tuple[str, ...]
    threads: int | None
    memory_limit: int | None
    cancelled: Callable[[], bool]
    environ: dict[str, str]
    running: dict[int, Task] = field(default_factory=dict)
    count: int = 0
    launcher: launch.Launcher | None = None

    def ended(self) -> Iterator[Ended]:
        try:
            yield from self._fill()
            while self.running and not self.cancelled():
                assert self.launcher is not None
                try:
                    end = self.launcher.ends.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                ended = [self._ended(end)] if isinstance(end, ProcessEnd) else self._lost(end)
                yield from ended + self._fill()
            if self.cancelled():
                yield from self._already_there()
                stopped = [(task, "Cancelled while it ran; it was stopped.") for task in self.running.values()]
                for task, text in [*stopped, *((task, "Cancelled before it began.") for task in self.tasks)]:
                    yield Ended(task.key, death=Death("not_run", "cancelled", text))
            elif self.launcher is not None:
                launch.give_back(self.launcher)
                self.launcher = None
        except KeyboardInterrupt:
            yield from self._already_there()
            raise
        finally:
            self._close()

    def _fill(self) -> list[Ended]:
        """Start tasks while there is room; gives those that could not even be sent."""
        refused: list[Ended] = []
        while len(self.running) < self.workers and not self.cancelled():
            task = next(self.tasks, None)
            if task is None:
                break
            try:
                argument = pickle.dumps(task.argument)
            except Exception as e:
                text = f"The argument of {task.function_name} can't be sent to a process: {type(e).__name__}: {e}"
                refused.append(Ended(task.key, death=Death("raised", type(e).__name__, text)))
                continue
            self.launcher = self.launcher or launch.take(self.preload)
            self.count += 1
            self.running[self.count] = task
            timeout = None if task.timeout is None or task.timeout > _FOREVER else task.timeout
            limits = (timeout, self.threads, self.memory_limit)
            self.launcher.start(Call(self.count, task.function_name, argument, *limits, self.environ))
        return refused

    def _ended(self, end: ProcessEnd) -> Ended:
        task, reply = self.running.pop(end.ident), None
        try:
            reply = None if end.reply is None else pickle.loads(end.reply)
        except Exception as e:  # it needs something that the caller can't import
            text = f"The result of {task.function_name} can't be read here: {type(e).__name__}: {e}"
            reply = Reply(death=Death("raised", type(e).__name__, text))
        value = None if reply is None else reply.value
        return Ended(task.key, value, death_of(end, reply), end.seconds, end.log.decode(errors="replace"))

    def _lost(self, lost: launch.SupervisorEnd) -> list[Ended]:
        """The supervisor died and its cells with it: they are lost, the next ones get a new supervisor."""
        name = death_name(lost.exitcode)
        if not lost.ready:
            why = lost.log.decode(errors="replace").strip()[-2000:] or "it wrote nothing."
            hint = f"see whether this works: python -c 'import {', '.join(self.preload)}'"
            what = f"The process that starts the cells ended with {name} at its start."
            raise DiagError(what, why=why, next_step=hint)
        death = Death("killed", name, f"The process that starts the cells ended with {name}, and this cell with it.")
        ended = [Ended(task.key, death=death) for task in self.running.values()]
        self.running.clear()
        self._close()
        return ended

    def _already_there(self) -> Iterator[Ended]:
        """Stop everything; what had ended before that is not lost."""
        launcher = self.launcher
        self._close()
        while launcher is not None and not launcher.ends.empty():
            end = launcher.ends.get()
            if isinstance(end, ProcessEnd):
                yield self._ended(end)

    def _close(self) -> None:
        if self.launcher is not None:
            self.launcher.close()
            self.launcher = None


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise DiagError(f"{name}={value!r} runs nothing.", next_step="give a number above 0, or None for no limit.")
