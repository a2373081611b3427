"""The table of floors in the docs is the one that the imports are held to."""

from __future__ import annotations

import re

from tests.docs.markdown import table
from tests.support.imports import FLOORS, PLANNED


def test_the_internals_show_the_floors_as_the_imports_are_checked() -> None:
    shown = {
        floor: re.findall(r"`([a-z_]+)/?`", rooms)
        for floor, rooms, _ in table("docs/internals.md", "Floor")
    }
    expected = {
        floor: [room for room in rooms if room not in PLANNED] for floor, rooms in FLOORS.items()
    }

    assert shown == expected
    assert list(shown) == list(reversed(expected)), "the highest floor comes first"
