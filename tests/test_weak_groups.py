"""A group has its living members, and threads use it at the same time."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from djjp.weak_groups import WeakGroup


class Member:
    """An object that can be referred to weakly."""


def test_a_group_has_the_members_that_are_alive() -> None:
    group: WeakGroup[Member] = WeakGroup()
    one, other = Member(), Member()
    for member in (one, other, one):
        group.add(member)
    assert list(group) == [one, other]
    del other, member
    gc.collect()
    assert list(group) == [one]
    group.clear()
    assert list(group) == []


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns after each few steps."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_it_can_be_read_while_other_threads_add_to_it() -> None:
    group: WeakGroup[Member] = WeakGroup()
    stop = threading.Event()

    def add(mine: list[Member]) -> None:
        for _ in count():
            if stop.is_set():
                return
            member = Member()
            group.add(member)
            if len(mine) < 100:  # of its own, so that no other thread adds between the two steps
                mine.append(member)

    kept: list[list[Member]] = [[], [], []]
    threads = [threading.Thread(target=add, args=[mine]) for mine in kept]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            assert len(list(group)) <= 303
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {id(member) for mine in kept for member in mine} <= {id(member) for member in group}
