"""Python in a process of its own."""

import subprocess
import sys


def python(*arguments, timeout=300, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=timeout, **options)
