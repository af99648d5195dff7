"""Where things are in a checkout, for tests that read files of it or hand a folder to a process of their own."""

from pathlib import Path

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
ROOT = TESTS.parent
