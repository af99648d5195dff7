"""Hardware: a simulated machine as text that reads back as itself."""

import pytest

from diag.errors import SpecError
from diag.values.hardware import Hardware

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GiB", Hardware((24 * GIB,))),
        ("2x24GiB+64GiB", Hardware((24 * GIB,) * 2, 64 * GIB)),
        ("2 x 24 GiB + 64 GiB", Hardware((24 * GIB,) * 2, 64 * GIB)),
        ("24GiB,80GiB", Hardware((24 * GIB, 80 * GIB))),
        ("1x100MiB+100MiB", Hardware((100 * 2**20,), 100 * 2**20)),
        ("2x24GiB,80GiB+1.5GiB", Hardware((24 * GIB, 24 * GIB, 80 * GIB), 3 * GIB // 2)),
        ("24GiB-6GiB,24GiB", Hardware((24 * GIB,) * 2, None, (6 * GIB, 0))),
        ("80GB", Hardware((80 * 10**9,))),
    ],
)
def test_text_is_read_and_reads_back_as_itself(text, expected):
    assert Hardware.parse(text) == expected
    assert Hardware.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "24", "x24GiB", "0x24GiB", "24GiB+", "24GiB++1GiB", "99x1GiB", "1GiB-2GiB", "-1GiB"]
)
def test_what_is_no_machine_is_refused_with_the_grammar(text):
    with pytest.raises(SpecError, match="Next:"):
        Hardware.parse(text)


def test_free_is_what_others_left():
    assert Hardware.parse("24GiB-6GiB,24GiB").free == (18 * GIB, 24 * GIB)
