"""Where the house breaks its rules, by room: `python tools/house.py [ROOM …]`. Ends with 1 where it does.

The rules are in tests/helpers/house_reader.py; tests/test_house.py asserts them.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from house_reader import RULES, Broken, House, room_of  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """`[ROOM …] [--brief]`; 0 where no rule is broken."""
    parser = argparse.ArgumentParser(prog="house", description="Prints what breaks the rules of the house, by room.")
    parser.add_argument("rooms", nargs="*", help="only these rooms")
    parser.add_argument("--brief", action="store_true", help="count per rule and room, no places")
    options = parser.parse_args(argv)
    house = House(ROOT / "src" / "diag", ROOT / "tests")
    broken = broken_by_room(house)
    for room, rules in sorted(broken.items()):
        if not options.rooms or room in options.rooms:
            print(f"\n{room or 'root'} ({_lines(house, room):,} lines)")
            for rule, places in rules.items():
                print(f"  {rule}: {len(places)}")
                if not options.brief:
                    print(*(f"    {place}" for place in places), sep="\n")
    total = sum(len(text.splitlines()) for text in house.text.values())
    count = sum(len(places) for rules in broken.values() for places in rules.values())
    print(f"\n{len(house.files)} files, {total:,} lines; rules are broken in {count} places.")
    return 1 if count else 0


def broken_by_room(house: House) -> dict[str, dict[str, list[Broken]]]:
    """room → rule → the places."""
    found: dict[str, dict[str, list[Broken]]] = defaultdict(lambda: defaultdict(list))
    for name, rule in RULES.items():
        for broken in rule(house):
            found[broken.room][name].append(broken)
    return found


def _lines(house: House, room: str) -> int:
    return sum(len(text.splitlines()) for module, text in house.text.items() if room_of(module) == room)


if __name__ == "__main__":
    sys.exit(main())
