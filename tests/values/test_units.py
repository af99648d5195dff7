"""Sizes and times: one spelling for people, and exact texts that read back as the same number."""

import pandas as pd
import pytest

from diag.values.units import format_exact, format_seconds, format_size, parse_size


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1023, "1 KiB"), (541 * 2**20, "541 MiB"), (2**40 - 1, "1 TiB"), (pd.NA, "")],
)
def test_sizes_have_three_digits(nbytes, text):
    assert format_size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "< 0.001 s"),
        (0.052, "0.052 s"),
        (0.6, "0.6 s"),
        (2.1, "2.1 s"),
        (14.2, "14.2 s"),
        (200, "3 min 20 s"),
        (7300, "2 h 1 min"),
        (float("nan"), ""),
    ],
)
def test_times_read_alike_from_milliseconds_to_minutes(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize("nbytes", [1, 1000, 1024, 10**9, 2**30, 3 * 2**29, 123456789])
def test_exact_sizes_read_back_exactly(nbytes):
    assert parse_size(format_exact(nbytes), "x") == nbytes
