from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from uuid import RFC_4122, UUID

import pytest

from djjp import ids
from djjp.ids import from_hex, new_id


def milliseconds(id: UUID) -> int:
    return id.int >> 80


def test_an_id_is_a_uuid_of_version_7() -> None:
    for _ in range(1000):
        id = new_id()
        assert id.version == 7
        assert id.variant == RFC_4122


@pytest.mark.borrowed
def test_an_id_behaves_as_a_uuid_in_all_respects() -> None:
    for id in (new_id(), from_hex(new_id().hex)):
        plain = UUID(str(id))
        assert type(id) is UUID
        assert (id, hash(id), repr(id), id.bytes) == (plain, hash(plain), repr(plain), plain.bytes)
        assert id.is_safe is plain.is_safe
        assert pickle.loads(pickle.dumps(id)) == plain  # noqa: S301  (its own)
        with pytest.raises(TypeError):
            id.int = 1  # type: ignore[misc]  # this must fail


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_uses_random_bits_of_its_own() -> None:
    """As in the processes of a web server that loads djjp before it forks."""
    code = """
import os
from djjp.ids import new_id
def draw():
    return [new_id().int & (1 << 62) - 1 for _ in range(5)]
draw()
child = os.fork()
os.write(1, str(draw()).encode() + bytes([10]))
if child:
    os.waitpid(child, 0)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    one, other = map(json.loads, result.stdout.splitlines())
    assert not set(one) & set(other)


def test_the_time_can_be_read_from_an_id() -> None:
    before = time.time_ns() // 1_000_000
    id = new_id()
    after = time.time_ns() // 1_000_000
    # The sequence may be ahead of the clock by a few steps of 244 ns.
    assert before <= milliseconds(id) <= after + 1


def test_the_fraction_of_the_millisecond_is_in_the_bits_after_the_version() -> None:
    before = time.time_ns()
    id = new_id()
    after = time.time_ns()
    fraction = (id.int >> 64) & 0xFFF
    nanoseconds = milliseconds(id) * 1_000_000 + fraction * 1_000_000 // 4096
    assert before - 1000 <= nanoseconds <= after + 1_000_000


def test_each_id_is_greater_than_the_one_before() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_their_texts_and_bytes_sort_as_they_do() -> None:
    """SQLite keeps ids as hexadecimal text, PostgreSQL as bytes; both orders are the queue's."""
    made = [new_id() for _ in range(5000)]
    shuffled = random.sample(made, len(made))
    assert sorted(shuffled, key=lambda id: id.hex) == made
    assert sorted(shuffled, key=lambda id: id.bytes) == made


def test_ids_of_concurrent_threads_ascend_in_each_and_are_unique() -> None:
    made: list[list[UUID]] = [[] for _ in range(8)]
    start = threading.Barrier(len(made))

    def make(mine: list[UUID]) -> None:
        start.wait()
        mine.extend(new_id() for _ in range(3000))

    threads = [threading.Thread(target=make, args=[mine]) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in made:
        assert mine == sorted(mine)
    everything = [id for mine in made for id in mine]
    ticks = {id.int >> 64 for id in everything}
    assert len(ticks) == len(everything) == 24_000


def test_ids_keep_ascending_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this module a last id ahead of the clock is the same as a clock that went back."""
    ahead = (time.time_ns() // 1_000_000 + 3_600_000) * 4096
    monkeypatch.setattr(ids, "_last", ahead)
    made = [new_id() for _ in range(5000)]
    assert made == sorted(set(made))
    assert milliseconds(made[0]) == ahead // 4096
    assert milliseconds(made[-1]) - milliseconds(made[0]) == 1, (
        "it counts on in steps, not in hours"
    )


def test_the_tail_is_random() -> None:
    tails = {new_id().int & ((1 << 62) - 1) for _ in range(1000)}
    assert len(tails) == 1000
