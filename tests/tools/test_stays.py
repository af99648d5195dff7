"""One call stays in few files: half of what it took before the package moved into rooms."""

from __future__ import annotations

import sys

import pytest
import stays

# At 38ea98d: 44, 94 and 177 stays.
MOST = {"load": 22, "diagnose": 47, "fix": 88}


@pytest.mark.slow
def test_load_diagnose_and_fix_take_half_of_the_stays_that_they_took():
    counted = stays.stays_of(stays.HERE)
    assert {call: len(counted[call]) for call in MOST if len(counted[call]) > MOST[call]} == {}


def test_a_loop_adds_no_stay_and_another_way_in_does(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    code = "import two\ndef go():\n    for n in range(9): two.f(n)\n    again()\ndef again(): two.f(1)\n"
    (folder / "one.py").write_text(code)
    (folder / "two.py").write_text("def f(n): pass\n")
    sys.path.insert(0, str(folder))
    try:
        import one
    finally:
        sys.path.remove(str(folder))
    stays_there = stays.recorded(one.go, f"{folder}/")
    assert stays_there == [("one.py", ["go"]), ("two.py", ["f"]), ("one.py", ["again"]), ("two.py", ["f"])]


def test_the_table_sets_checkouts_side_by_side():
    one = {call: [("a.py", ["f"]), ("b.py", ["g"]), ("a.py", ["h"])] for call in stays.CALLS}
    assert stays.table({"/old": one, "/new": one}).splitlines()[1].split("  ")[0] == "load"
    assert stays.table({"/old": one, "/new": one}).count("2 files, 3 stays") == 6
