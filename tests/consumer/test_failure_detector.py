"""The failure detector finds dead consumers by real locks of real processes, heartbeats and its own clock.

Its clock is the tests' here: it moves when they search, so that no search comes late on a busy machine.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from django.conf import settings

from djjp.consumer import failure_detector, rescue
from djjp.consumer.failure_detector import FailureDetector
from djjp.durations import to_datetime
from djjp.engine import Engine, Liveness, Peer, lockfile
from djjp.engine.consumers import Consumers
from djjp.models import Consumer
from tests.support.clocks import Clock, stopped
from tests.support.engine_calls import NOW, lives, one, row
from tests.support.processes import Processes, eventually

pytestmark = pytest.mark.usefixtures("_short", "clock")

# The limits of these tests in seconds; they differ, so that each can be recognized.
LOCK_FREE_FOR, RECONNECT, HEARTBEAT, FROZEN = 0.3, 0.7, 0.6, 0.6
#: The seconds between two searches: a power of two, so that sums of it are exact.
STEP = 1 / 64

HOLDER = """
import django; django.setup()
import time
from djjp.engine import current
engine = current()
print(*[engine.consumers.acquire_lock(name) for name in {names!r}], flush=True)
time.sleep(600)
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch, failure_detector)


@pytest.fixture
def _short(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(failure_detector, "LOCK_FREE_FOR", LOCK_FREE_FOR)
    monkeypatch.setattr(failure_detector, "ORPHANS_EVERY", 0.0)
    folder = engine.db.runtime_dir()
    assert folder is not None
    before = {*folder.iterdir()}
    yield
    for path in {*folder.iterdir()} - before:
        path.unlink(missing_ok=True)


def leave_free_lock(engine: Engine, name: str) -> None:
    """Leave a lock file as a process does that was killed."""
    folder = engine.db.runtime_dir()
    assert folder is not None
    path = folder / f"{name}.lock"
    assert lockfile.acquire(path)
    lockfile._held.pop(path).close()


def register(
    engine: Engine, *names: str, locked: bool = True, pid: int = 7, here: bool = True
) -> None:
    """Register consumers; unless they are to be of another machine, their lock files are free."""
    for name in names:
        if locked and here:
            leave_free_lock(engine, name)
        engine.consumers.register(
            Consumer(
                name=name,
                host="host",
                pid=pid,
                concurrency="threads",
                concurrency_limit=1,
                started_at=to_datetime(NOW),
                heartbeat_at=to_datetime(NOW),
                locked=locked,
            )
        )


def holding(processes: Processes, *names: str, **environment: str) -> subprocess.Popen[str]:
    """Start a process that holds the locks of these consumers."""
    process = processes.python(HOLDER.format(names=names), **environment)
    assert process.stdout is not None
    assert process.stdout.readline().split() == ["True"] * len(names), process.communicate()
    return process


class Observer:
    """A consumer called `me` that searches for dead ones all the time.

    `dead` holds the consumers found dead, with the seconds from the first search to the one that found them.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        heartbeat: float = 600,
        frozen: float | None = None,
        name: str = "me",
        reconnect: float = RECONNECT,
    ) -> None:
        self.detector = FailureDetector(heartbeat, frozen, reconnect=reconnect)
        self.dead: dict[str, float] = {}
        self._engine = engine
        self._name = name
        self._clock = clock
        self._started = clock.now

    def search(self) -> set[str]:
        self._clock.now += STEP
        found = {peer.name for peer in self.detector.find_dead(self._engine, self._name)}
        for name in found:
            self.dead.setdefault(name, self._clock.now - self._started)
        return found

    def search_for(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        until = self._clock.now + seconds
        while self._clock.now < until:
            self.search()
            meanwhile()

    def until_dead(self, *names: str) -> None:
        """Search until these are found dead, for a minute at most."""
        until = self._clock.now + 60
        while not self.search() >= set(names):
            assert self._clock.now < until, (names, self.dead)


def beating(engine: Engine, name: str) -> Callable[[], object]:
    now = NOW

    def beat() -> None:
        nonlocal now
        now += 0.001
        assert engine.consumers.heartbeat(name, now, locked=True)

    return beat


# The rules


def test_a_lock_that_stays_free_without_heartbeats_means_dead(engine: Engine, clock: Clock) -> None:
    register(engine, "other")
    observer = Observer(engine, clock)
    observer.until_dead("other")
    assert observer.dead["other"] >= LOCK_FREE_FOR


def test_a_free_lock_means_nothing_while_heartbeats_come(engine: Engine, clock: Clock) -> None:
    """As when the server has terminated the session of a consumer, which reconnects."""
    register(engine, "other")
    observer = Observer(engine, clock)
    observer.search_for(3 * LOCK_FREE_FOR, beating(engine, "other"))
    assert observer.dead == {}
    cut_off = clock.now
    observer.until_dead("other")
    assert clock.now - cut_off >= LOCK_FREE_FOR


def test_the_time_of_a_free_lock_does_not_start_with_the_last_heartbeat(
    engine: Engine, clock: Clock, processes: Processes
) -> None:
    """Its time starts when it is free, although heartbeats stopped long before."""
    register(engine, "other")
    holder = holding(processes, "other")
    observer = Observer(engine, clock)
    observer.search_for(LOCK_FREE_FOR + 0.2)
    assert observer.dead == {}
    holder.kill()
    eventually(lambda: not lives(engine, "other"))
    killed = clock.now
    observer.until_dead("other")
    assert clock.now - killed >= LOCK_FREE_FOR


@pytest.mark.both_databases
def test_a_held_lock_means_alive_however_old_the_heartbeat(
    engine: Engine, clock: Clock, processes: Processes
) -> None:
    register(engine, "other")
    holder = holding(processes, "other")
    observer = Observer(engine, clock, heartbeat=0.1, frozen=None)
    observer.search_for(1.0)
    assert observer.dead == {}
    holder.kill()
    eventually(lambda: not lives(engine, "other"))
    observer.until_dead("other")


def test_a_consumer_that_holds_its_lock_without_heartbeats_is_dead_at_the_frozen_limit(
    engine: Engine, clock: Clock, processes: Processes
) -> None:
    register(engine, "frozen", "slow")
    holding(processes, "frozen", "slow")
    observer = Observer(engine, clock, frozen=FROZEN)
    observer.search_for(FROZEN + 0.3, beating(engine, "slow"))
    observer.until_dead("frozen")
    assert observer.dead["frozen"] >= FROZEN
    assert observer.dead.keys() == {"frozen"}


def test_without_a_lock_the_heartbeat_decides(engine: Engine, clock: Clock) -> None:
    register(engine, "silent", "beating", locked=False)
    beat = NOW
    observer = Observer(engine, clock, heartbeat=HEARTBEAT, frozen=0.05)

    def heartbeat() -> None:
        nonlocal beat
        beat += 0.001
        engine.consumers.heartbeat("beating", beat, locked=False)

    observer.search_for(HEARTBEAT + 0.3, heartbeat)
    observer.until_dead("silent")
    assert observer.dead["silent"] >= HEARTBEAT
    assert observer.dead.keys() == {"silent"}


def test_a_consumer_never_finds_itself_dead(engine: Engine, clock: Clock) -> None:
    register(engine, "me", locked=False)
    observer = Observer(engine, clock, heartbeat=0.01, frozen=0.01)
    observer.search_for(LOCK_FREE_FOR + 0.2)
    register(engine, "me")
    observer.search_for(LOCK_FREE_FOR + 0.2)
    assert observer.dead == {}


def test_ages_do_not_depend_on_the_clocks_of_other_machines(engine: Engine, clock: Clock) -> None:
    register(engine, "past", "future", locked=False)
    engine.consumers.heartbeat("past", NOW - 86_400 * 365, locked=False)
    engine.consumers.heartbeat("future", time.time() + 86_400 * 365, locked=False)
    observer = Observer(engine, clock, heartbeat=HEARTBEAT)
    observer.search_for(HEARTBEAT / 2)
    assert observer.dead == {}
    observer.until_dead("past", "future")
    assert min(observer.dead.values()) >= HEARTBEAT


def test_deregistered_consumers_are_forgotten(engine: Engine) -> None:
    detector = FailureDetector(600, None, reconnect=RECONNECT)
    for number in range(3):
        register(engine, f"other {number}")
        detector.find_dead(engine, "me")
        engine.consumers.deregister(f"other {number}")
    detector.find_dead(engine, "me")
    assert (detector._seen, detector._in_doubt_since, detector._seen_alive) == ({}, {}, set())


# After an outage


@pytest.mark.postgresql_only
def test_who_has_just_started_gives_consumers_of_other_machines_time_to_reconnect(
    engine: Engine,
    clock: Clock,
) -> None:
    """Their sessions can have ended in an outage of which it knows nothing."""
    register(engine, "other", here=False)
    observer = Observer(engine, clock)
    observer.until_dead("other")
    assert observer.dead["other"] >= RECONNECT + LOCK_FREE_FOR


@pytest.mark.postgresql_only
def test_a_session_that_ended_before_the_eyes_of_another_consumer_means_dead_at_once(
    engine: Engine, clock: Clock, processes: Processes
) -> None:
    register(engine, "other", here=False)
    holder = holding(processes, "other", TMPDIR=str(settings.HOME))  # as on another machine
    observer = Observer(engine, clock, reconnect=600)
    observer.search()
    holder.kill()
    eventually(lambda: not lives(engine, "other"))
    killed = clock.now
    observer.until_dead("other")
    assert clock.now - killed >= LOCK_FREE_FOR


@pytest.mark.postgresql_only
def test_after_an_outage_consumers_of_other_machines_get_time_to_reconnect(
    engine: Engine,
    clock: Clock,
) -> None:
    reconnect = 3.0
    register(engine, "other", here=False)
    observer = Observer(engine, clock, reconnect=reconnect)
    observer.search()
    beating(engine, "other")()
    observer.until_dead("other")
    assert observer.dead["other"] < reconnect + LOCK_FREE_FOR, "it was seen alive"

    observer.detector.pause()
    cut_off = clock.now
    observer.until_dead("other")
    assert clock.now - cut_off >= reconnect + LOCK_FREE_FOR


def test_after_an_outage_a_process_that_has_ended_is_dead_at_once(
    engine: Engine, clock: Clock
) -> None:
    """No outage of the database frees the lock of a process; its time starts anew all the same."""
    register(engine, "other")
    observer = Observer(engine, clock, reconnect=600)
    observer.search_for(LOCK_FREE_FOR * 0.7)
    observer.detector.pause()
    cut_off = clock.now
    observer.until_dead("other")
    assert clock.now - cut_off >= LOCK_FREE_FOR


def test_without_a_lock_a_short_heartbeat_limit_still_leaves_time_to_reconnect(
    engine: Engine,
    clock: Clock,
) -> None:
    register(engine, "other", locked=False)
    observer = Observer(engine, clock, heartbeat=0.1)
    observer.until_dead("other")
    assert observer.dead["other"] >= RECONNECT + LOCK_FREE_FOR


# Locks that cannot be seen


@pytest.mark.sqlite_only
def test_a_lock_that_cannot_be_seen_is_not_taken_for_a_free_one(
    engine: Engine, clock: Clock
) -> None:
    """As with a lock file of another user, or in a folder that was removed."""
    register(engine, "silent", "beating", here=False)
    observer = Observer(engine, clock, heartbeat=HEARTBEAT)
    observer.search_for(HEARTBEAT + RECONNECT, beating(engine, "beating"))
    observer.until_dead("silent")
    assert observer.dead["silent"] >= HEARTBEAT
    assert observer.dead.keys() == {"silent"}


def test_the_time_for_which_the_detector_did_not_run_does_not_count(
    engine: Engine, clock: Clock, processes: Processes
) -> None:
    """All consumers of a paused machine wake at once, and each finds the heartbeats of the others old."""
    register(engine, "other")
    holding(processes, "other")
    observer = Observer(engine, clock, frozen=FROZEN)
    observer.search()
    clock.now += FROZEN + 0.2
    woken = clock.now
    assert observer.search() == set()
    beating(engine, "other")()
    observer.until_dead("other")
    assert clock.now - woken >= FROZEN


def test_a_detector_that_runs_rarely_still_finds_the_dead(engine: Engine, clock: Clock) -> None:
    """As in a consumer whose jobs repeatedly keep the interpreter for seconds."""
    register(engine, "dead")
    observer = Observer(engine, clock)
    for _ in range(3):
        observer.search()
        clock.now += 2 * LOCK_FREE_FOR
    assert observer.search() == {"dead"}


# The ring


@pytest.fixture
def tested(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names whose locks were tested."""
    names: list[str] = []
    liveness = type(engine.consumers).liveness

    def spy(self: Consumers, peer: Peer) -> Liveness:
        names.append(peer.name)
        return liveness(self, peer)

    monkeypatch.setattr(type(engine.consumers), "liveness", spy)
    return names


def test_each_watches_two_live_neighbours_and_is_watched_by_two(
    engine: Engine, clock: Clock, processes: Processes, tested: list[str]
) -> None:
    ring = ["a", "b", "c", "d", "e", "f"]
    register(engine, *ring)
    holding(processes, *ring)
    for name in ring:
        Observer(engine, clock, name=name).search()
    assert tested == [*"bc", *"cd", *"de", *"ef", *"fa", *"ab"]


def test_dead_neighbours_are_skipped_until_two_live_ones_are_found(
    engine: Engine, clock: Clock, processes: Processes, tested: list[str]
) -> None:
    register(engine, "a", "b", "c", "d", "e", "f", "g", "h")
    holding(processes, "d", "f", "g")
    observer = Observer(engine, clock, name="b")
    observer.search()
    assert tested == ["c", "d", "e", "f"]
    observer.until_dead("c", "e")
    assert observer.dead.keys() == {"c", "e"}, "h and a are for others to find"


def test_consumers_without_lock_and_frozen_ones_are_found_all_round_the_ring(
    engine: Engine, clock: Clock, processes: Processes
) -> None:
    register(engine, "a", "b", "c", "frozen")
    register(engine, "x", locked=False)
    holding(processes, "a", "b", "c", "frozen")
    observer = Observer(engine, clock, heartbeat=HEARTBEAT, frozen=FROZEN, name="a")
    beats = [beating(engine, name) for name in "bc"]
    observer.search_for(HEARTBEAT + 0.3, lambda: [beat() for beat in beats])
    eventually(lambda: [beat() for beat in beats] and observer.search() == {"frozen", "x"})
    assert observer.dead.keys() == {"frozen", "x"}


# Orphans: running jobs of a consumer that has no row


def test_an_orphans_consumer_gets_time_to_write_its_row_again(engine: Engine, clock: Clock) -> None:
    one(engine, "ghost")
    observer = Observer(engine, clock, heartbeat=HEARTBEAT)
    observer.search_for(HEARTBEAT / 2)
    register(engine, "ghost", here=False)
    observer.search_for(HEARTBEAT, beating(engine, "ghost"))
    assert observer.dead == {}
    engine.consumers.deregister("ghost")
    gone = clock.now
    observer.until_dead("ghost")
    assert clock.now - gone >= HEARTBEAT


def test_an_orphan_that_holds_its_lock_is_alive(
    engine: Engine, clock: Clock, processes: Processes
) -> None:
    holder = holding(processes, "ghost")
    one(engine, "ghost")
    observer = Observer(engine, clock, heartbeat=0.1)
    observer.search_for(0.5)
    assert observer.dead == {}
    holder.kill()
    eventually(lambda: not lives(engine, "ghost"))
    observer.until_dead("ghost")


def test_an_orphan_is_found_once_although_orphans_are_searched_rarely(
    engine: Engine,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(failure_detector, "ORPHANS_EVERY", 600.0)
    job = one(engine, "ghost")
    detector = FailureDetector(0.1, None, reconnect=0.0)
    found: list[Peer] = []

    def search() -> bool:
        clock.now += STEP
        peers = detector.find_dead(engine, "me")
        found.extend(peers)
        for peer in peers:
            rescue.rescue(engine, peer)
        return bool(row(job.id)["state"] == "ready")

    with caplog.at_level(logging.WARNING, "djjp"):
        eventually(search)
        for _ in range(20):
            search()
    assert found == [Peer("ghost", None, locked=True)]
    assert len(caplog.records) == 1
