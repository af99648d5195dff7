"""Functions for cells that do what cells must not do, and a few that behave. Called by name, in a child process."""

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def double(number):
    return 2 * number


def pause(seconds):
    time.sleep(seconds)
    return seconds


def note_and_double(argument):
    note, number = argument
    Path(note).write_text(str(os.getpid()))
    return 2 * number


def kill_itself(_):
    print("about to go")
    os.kill(os.getpid(), signal.SIGKILL)


def exit_with(code):
    print("leaving with", code)
    os._exit(code)


def call_sys_exit(code):
    sys.exit(code)


def segfault(_):
    ctypes.string_at(0)


def abort(_):
    os.abort()


def fail(text):
    raise ValueError(text)


def fail_with_a_class_of_its_own(_):
    class Local(Exception):
        def __init__(self, a, b):
            super().__init__("can't be pickled")

    raise Local(1, 2)


def hang(_):
    while True:
        time.sleep(60)


def hang_deaf(_):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def take_memory_without_end(_):
    held = []
    while True:
        held.append(bytearray(16 * 2**20))


def take_tensors_without_end(_):
    import torch

    held = []
    while True:
        held.append(torch.ones(4 * 2**20))


def print_lines(count):
    for number in range(count):
        print("line", number)
    return count


def print_all_kinds(_):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"from below \xff\n")
    subprocess.run([sys.executable, "-c", "print('from a process')"], check=True)


def progress_bar_then_death(_):
    for percent in range(0, 101, 10):
        print(f"\rloading {percent}%", end="", flush=True)
    os._exit(4)


def return_a_function(_):
    return lambda: None


def return_many_bytes(count):
    return b"x" * count


def return_something_unknown(folder):
    Path(folder, "only_here.py").write_text("class Thing:\n    pass\n")
    sys.path.insert(0, folder)
    return importlib.import_module("only_here").Thing()


def leave_processes_behind(_):
    """Process ids of one in this process's group, one in a session of its own, and one whose parent has ended."""
    here = subprocess.Popen(["sleep", "600"])
    away = subprocess.Popen(["sleep", "600"], start_new_session=True)
    start = "subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=-3, stderr=-3)"
    code = f"import subprocess; print({start}.pid)"
    orphan = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [here.pid, away.pid, int(orphan.stdout)]


def leave_a_writer_behind(_):
    subprocess.Popen(["yes"], start_new_session=True)
    time.sleep(0.5)
    return "left"


def note_and_hang(path):
    """Write down every process of this cell, with one it started itself, then hang."""
    started = subprocess.Popen(["sleep", "600"], start_new_session=True)
    _note_whole(path, f"{os.getpid()} {os.getppid()} {started.pid}")
    hang(None)


def _note_whole(path, text):
    Path(path + ".part").write_text(text)
    os.rename(path + ".part", path)


def leave_temporary_files(note):
    """Write where a temporary folder was made, then die."""
    folder = tempfile.mkdtemp()
    Path(folder, "weights.dat").write_bytes(b"x" * 1000)
    Path(note).write_text(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_parent(_):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def kill_parent_from_a_folder(note):
    _note_whole(note, tempfile.mkdtemp())
    kill_parent(None)


def read_stdin(_):
    return sys.stdin.read(), os.read(0, 10)


def surroundings(names):
    return {
        "environment": {name: os.environ.get(name) for name in names},
        "folder": os.getcwd(),
        "parent": os.getppid(),
        "main": sys.modules["__main__"].__dict__.get("__file__"),
    }


def answer_of(module):
    return importlib.import_module(module).ANSWER


def loaded(names):
    return {name: name in sys.modules for name in names}


def torch_state(_):
    import torch

    return {
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_initialized(),
        "fork is safe": not torch.cuda._is_in_bad_fork(),
        "variable": os.environ.get("OMP_NUM_THREADS"),
        "sum": float(torch.ones(300, 300).mm(torch.ones(300, 300)).sum()),
    }


def gpu_sum(_):
    import torch

    return float(torch.ones(9, device="cuda").sum())
