"""Runs a notebook through papermill and says truthfully how it ended. What reaches the disk is redacted."""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.execute import remove_error_markers
from papermill.iorw import papermill_io

from diag.values.exits import death_name
from diag.values.redact import redact
from diag.values.text import last_line, visible
from diag.views.files import RedactedFile, redacted_notebook
from diag.views.report.ending import DIED, ERROR, FINISHED, INTERRUPTED, SILENT, TIMEOUT, Ending

Say = Callable[[str], object]
_SCHEME = "diag-report:"
_ENGINE = "diag"


@dataclass
class _Watch:
    """What the engine saw last; it outlives the exception that ends a run."""

    deadline: float | None
    nb: NotebookNode | None = None
    index: int | None = None
    exit_code: int | None = None

    @property
    def seconds_left(self) -> int | None:
        return None if self.deadline is None else max(1, round(self.deadline - time.monotonic()))

    @property
    def startup_seconds(self) -> int:
        return min(120, self.seconds_left or 120)

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline - 0.5


@dataclass(frozen=True)
class Run:
    """An executed notebook and how it ended; the notebook is redacted and its cell states are true."""

    nb: NotebookNode
    ended: Ending


def run_notebook(
    notebook: Path, output: Path, parameters: Mapping[str, Any], deadline: float | None = None, say: Say | None = None
) -> Run:
    """Executes `notebook` with this interpreter's kernel and writes it to `output` after every cell.

    `deadline` is in seconds for the whole run. `say` receives each line the notebook prints. Whatever ends the run,
    the file holds what was done until then. Does not raise for anything that happens inside the notebook.
    """
    watch = _Watch(None if deadline is None else time.monotonic() + deadline)
    lines = _Lines(say or (lambda line: None))
    error: BaseException | None = None
    handler = (_SCHEME, RedactedFile(output))
    papermill_io.register(*handler)
    papermill_engines.register(_ENGINE, _Engine)
    with _terminated_like_interrupted():
        try:
            source, target = nbformat.read(notebook, as_version=4), f"{_SCHEME}executed.ipynb"
            kernel = {"engine_name": _ENGINE, "kernel_name": "python3", "language": "python", "progress_bar": False}
            told = {"stdout_file": lines, "stderr_file": lines, "watch": watch}
            papermill.execute_notebook(source, target, parameters=dict(parameters), **kernel, **told)
        except (Exception, KeyboardInterrupt) as e:
            error = e
        finally:
            papermill_io._handlers.remove(handler)
            lines.close()
    nb = nbformat.read(notebook, as_version=4) if watch.nb is None else remove_error_markers(watch.nb)
    ended = _ending(error, watch, nb)
    return Run(truthful(nb, ended, notebook.name, output.name), ended)


def truthful(nb: NotebookNode, ended: Ending, source: str, output: str) -> NotebookNode:
    """Cell states as they were: papermill stamps every cell "completed" when a kernel dies or time is up."""
    nb.metadata["diag"] = {"ended": ended.to_json()}
    nb = redacted_notebook(nb)
    meta = nb.metadata.setdefault("papermill", {})
    whole = ended.how in (FINISHED, SILENT)
    meta.update(input_path=source, output_path=output, exception=None if whole else True)
    nb.metadata.pop("widgets", None)
    if not whole:
        for position, cell in enumerate(nb.cells, start=1):
            state = cell.metadata.setdefault("papermill", {})
            if position == ended.cell:
                state.update(status="failed", exception=True)
            elif ended.cell is None or position > ended.cell:
                state.update(status="pending", start_time=None, end_time=None, duration=None)
    return nb


def _ending(error: BaseException | None, watch: _Watch, nb: NotebookNode) -> Ending:
    """How a run ended that papermill ended with this error; the last line names a cell best, imports come first."""
    if error is None:
        return Ending(FINISHED, cells=len(nb.cells))
    index = watch.index
    line = "" if index is None else redact(last_line(nb.cells[index].source))
    where = (None if index is None else index + 1, len(nb.cells), line)
    if isinstance(error, DeadKernelError):
        return Ending(DIED, *where, _death(watch.exit_code))
    no_kernel = index is None and isinstance(error, RuntimeError)  # how jupyter_client says that it did not start
    if isinstance(error, (CellTimeoutError, TimeoutError)) or (no_kernel and watch.is_late):
        return Ending(TIMEOUT, *where, "the time for the whole run was up")
    if isinstance(error, KeyboardInterrupt):
        return Ending(INTERRUPTED, *where, "it was interrupted or told to terminate")
    if no_kernel:
        return Ending(DIED, *where, f"the kernel did not start: {redact(str(error))}")
    name, said = str(getattr(error, "ename", type(error).__name__)), getattr(error, "evalue", error)
    return Ending(ERROR, *where, redact(f"{name}: {said}".strip()), name)


def _death(exit_code: int | None) -> str:
    """
    >>> _death(-11), _death(3)
    ('the kernel crashed with SIGSEGV', "the kernel's process ended itself with exit code 3")
    """
    if exit_code == -9:
        return "the kernel was killed (SIGKILL), most often because the machine ran out of memory"
    if exit_code is not None and exit_code < 0:
        return f"the kernel crashed with {death_name(exit_code)}"
    return "the kernel's process ended itself" + ("" if exit_code is None else f" with exit code {exit_code}")


class _Client(PapermillNotebookClient):
    """Remembers which cell is running and gives each the time that is left."""

    def __init__(self, nb_man: NotebookExecutionManager, watch: _Watch, **kw: Any) -> None:
        super().__init__(nb_man, **kw)
        self.watch = watch
        watch.nb = nb_man.nb
        self.timeout_func = lambda cell: watch.seconds_left

    def execute_cell(self, cell: NotebookNode, cell_index: int, *args: Any, **kw: Any) -> NotebookNode:
        self.watch.index = cell_index
        try:
            return super().execute_cell(cell, cell_index, *args, **kw)
        except DeadKernelError:
            process = getattr(getattr(self.km, "provisioner", None), "process", None)
            self.watch.exit_code = None if process is None else process.poll()
            raise


class _Engine(Engine):
    """Papermill's engine with our client and a kernel that is this interpreter, whatever kernels are installed.

    Client and kernel talk through files where the system has such sockets: no port is opened, nobody can listen in.
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **kw: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="diag-", ignore_cleanup_errors=True) as folder:
            sockets = {"transport": "ipc", "ip": os.path.join(folder, "k")} if os.name == "posix" else {}
            manager = AsyncKernelManager(kernel_name=kernel_name, kernel_spec_manager=_ThisInterpreter(), **sockets)
            given = {name: kw.get(name) for name in ("stdout_file", "stderr_file")}
            given |= {"km": manager, "kernel_name": kernel_name, "shutdown_kernel": "immediate"}
            watch: _Watch = kw["watch"]
            _Client(nb_man, watch, startup_timeout=watch.startup_seconds, **given).execute(cleanup_kc=True)


class _ThisInterpreter(KernelSpecManager):
    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="this interpreter", language="python", interrupt_mode="signal")


@dataclass
class _Lines:
    """A file to papermill; passes whole lines on, plain and redacted."""

    say: Say
    rest: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, text: str) -> None:
        with self.lock:
            *lines, self.rest = (self.rest + text).replace("\r", "\n").split("\n")
        for line in lines:
            if line.strip():
                self.say(visible(redact(line)))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.write("\n")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers send, ends a run as Ctrl-C does: with a report."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
