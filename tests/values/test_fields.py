"""What people write for a list, a machine, a number or a time is read, or refused with what would be right."""

import pytest

from diag.values.fields import optional, parse_count, parse_list, parse_machines
from diag.values.units import parse_seconds


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("auto", ["auto"]),
        ("auto, disk", ["auto", "disk"]),
        ("auto disk", ["auto", "disk"]),
        ("[auto, disk]", ["auto", "disk"]),
        ("('auto', 'disk')", ["auto", "disk"]),
        ('[{"": "cpu"}, "auto"]', [{"": "cpu"}, "auto"]),
        ('{"": 0, "lm_head": "cpu"}', [{"": 0, "lm_head": "cpu"}]),
        (("auto",), ["auto"]),
        ("", []),
    ],
)
def test_a_list_in_any_writing(value, items):
    assert parse_list(value, "x") == items


def test_hardware_may_hold_commas_and_blanks():
    assert parse_machines("24GiB,80GiB+64GiB") == ["24GiB,80GiB+64GiB"]
    assert parse_machines("this machine, 2x300MiB+8GiB") == ["this machine", "2x300MiB+8GiB"]
    assert parse_machines('["24GiB,80GiB"]') == ["24GiB,80GiB"]


def test_times_and_numbers():
    assert [optional(parse_seconds, value, "x") for value in ("2h", 1.5, None)] == [7200.0, 1.5, None]
    assert parse_count("7", "x") == 7
