"""What the tests of isolation share: tasks from the misbehaving cells, and waiting for processes to end."""

import contextlib
import os
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from interpreter import python

from diag.machine import processes as posix
from diag.sweep.isolate.pool import Task, run

CELLS = "misbehaving_cells"
HERE = str(Path(__file__).parent)
PYTHONPATH = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
forks = pytest.mark.skipif(posix.start_method() != "forkserver", reason="needs a supervisor that forks")


def task(function, argument=None, key=None, timeout=None):
    return Task(key or function, f"{CELLS}:{function}", argument, timeout)


def call(function, argument=None, timeout=60.0, **how):
    """One call, alone."""
    (ended,) = run([task(function, argument, timeout=timeout)], preload=how.pop("preload", ()), **how)
    return ended


def gone(pid, seconds=20.0):
    """Whether a process ends in time; one that only waits to be collected has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


def wait_for(path, seconds=60.0):
    end = time.monotonic() + seconds
    while not Path(path).exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)
    return Path(path).read_text()


def run_script(code, folder, *how, **options):
    """Run code the way a user does, from a folder of its own."""
    script = Path(folder) / "script.py"
    script.write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    with open(script) as stdin:
        return python(*(how or [str(script)]), cwd=folder, env=environment, stdin=stdin, timeout=120, **options)
