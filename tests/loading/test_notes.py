"""What libraries warn about is kept as text that is the same in every process."""

from __future__ import annotations

import subprocess
import sys

import pytest

NOTES = """
import diag
outcome = diag.load(diag.LoadSpec("tiny", device_map="offload", hardware="64MiB+1GiB"))
print([note for note in outcome.notes if "meta device" in note])
"""


@pytest.mark.parametrize("seed", ["0", "1", "2", "3"])
def test_where_weights_were_offloaded_to_is_said_in_one_order(seed, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    done = subprocess.run([sys.executable, "-c", NOTES], capture_output=True, text=True, timeout=120)
    said = "Some parameters are on the meta device because they were offloaded to the cpu and disk."
    assert done.stdout == f"{[said]}\n", done.stderr
