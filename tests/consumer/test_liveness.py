"""Who is alive and who is dead: by real locks of real processes, heartbeats, and one's own clock."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from djjp.consumer import failure_detector, rescue, start_journal
from djjp.consumer.failure_detector import FailureDetector
from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.consumer.start_journal import StartJournal
from djjp.durations import to_datetime
from djjp.engine import Engine, Peer
from djjp.models import Consumer, Job, OnCrash
from tests.support.engine_calls import NOW, at_once, claim, enqueue, one, row
from tests.support.processes import Processes, eventually

pytestmark = pytest.mark.usefixtures("_short")

# What the tests wait for, in seconds: each span can be told from the others.
LOCK_FREE_FOR, GRACE_AFTER_OUTAGE, HEARTBEAT, FROZEN = 0.3, 0.5, 0.6, 0.6

HOLDER = """
import django; django.setup()
import time
from djjp import engine
queue = engine.current()
print(*[queue.consumers.acquire_lock(name) for name in {names!r}], flush=True)
time.sleep(600)
"""


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_detector, "LOCK_FREE_FOR", LOCK_FREE_FOR)
    monkeypatch.setattr(failure_detector, "GRACE_AFTER_OUTAGE", GRACE_AFTER_OUTAGE)
    monkeypatch.setattr(failure_detector, "ORPHANS_EVERY", 0.0)


def register(engine: Engine, *names: str, locked: bool = True, pid: int = 7) -> None:
    for name in names:
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


def holding(processes: Processes, *names: str) -> subprocess.Popen[str]:
    """A process that holds the locks of these consumers."""
    process = processes.python(HOLDER.format(names=names))
    assert process.stdout is not None
    assert process.stdout.readline().split() == ["True"] * len(names), process.communicate()
    return process


class Observer:
    """A consumer called `me` that looks at the others all the time.

    `dead` holds who was found dead in any look, with the seconds from the first look to that one.
    """

    def __init__(
        self, engine: Engine, heartbeat: float = 600, frozen: float | None = None, name: str = "me"
    ) -> None:
        self.watch = FailureDetector(heartbeat, frozen)
        self.dead: dict[str, float] = {}
        self._queue = engine
        self._name = name
        self._began = time.monotonic()

    def look(self) -> set[str]:
        found = {peer.name for peer in self.watch.find_dead(self._queue, self._name)}
        for name in found:
            self.dead.setdefault(name, time.monotonic() - self._began)
        return found

    def look_for(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            meanwhile()
            time.sleep(0.01)

    def until_dead(self, *names: str) -> None:
        eventually(lambda: self.look() >= set(names))


def beating(engine: Engine, name: str) -> Callable[[], object]:
    now = NOW

    def beat() -> None:
        nonlocal now
        now += 0.001
        assert engine.consumers.heartbeat(name, now, locked=True)

    return beat


# The rules of the watch


def test_a_lock_that_stays_free_while_the_heart_stands_still_means_dead(engine: Engine) -> None:
    register(engine, "other")
    observer = Observer(engine)
    observer.until_dead("other")
    assert observer.dead["other"] >= LOCK_FREE_FOR


def test_a_free_lock_means_nothing_while_the_heart_beats(engine: Engine) -> None:
    """As when the server has terminated the session of a consumer that comes back with another one."""
    register(engine, "other")
    observer = Observer(engine)
    observer.look_for(3 * LOCK_FREE_FOR, beating(engine, "other"))
    assert observer.dead == {}
    stopped = time.monotonic()
    observer.until_dead("other")
    assert time.monotonic() - stopped >= LOCK_FREE_FOR - 0.1


def test_a_lock_that_was_taken_again_in_time_means_alive(
    engine: Engine, processes: Processes
) -> None:
    """And its time begins anew when it is free once more, though the heart has stood still long since."""
    register(engine, "other")
    observer = Observer(engine)
    observer.look()
    holder = holding(processes, "other")
    observer.watch._free_since["other"] = time.monotonic()  # the process took its time to start
    observer.look_for(LOCK_FREE_FOR + 0.2)
    assert observer.dead == {}
    holder.kill()
    eventually(lambda: not engine.consumers.is_locked("other"))
    killed = time.monotonic()
    observer.until_dead("other")
    assert time.monotonic() - killed >= LOCK_FREE_FOR - 0.1


def test_trap_2_a_held_lock_means_alive_however_old_the_heartbeat(
    engine: Engine, processes: Processes
) -> None:
    register(engine, "other")
    holder = holding(processes, "other")
    observer = Observer(engine, heartbeat=0.1, frozen=None)
    observer.look_for(1.0)
    assert observer.dead == {}
    holder.kill()
    observer.until_dead("other")


def test_what_holds_its_lock_and_does_nothing_is_dead_at_the_frozen_limit(
    engine: Engine, processes: Processes
) -> None:
    register(engine, "frozen", "slow")
    holding(processes, "frozen", "slow")
    observer = Observer(engine, frozen=FROZEN)
    observer.look_for(FROZEN + 0.3, beating(engine, "slow"))
    observer.until_dead("frozen")
    assert observer.dead["frozen"] >= FROZEN
    assert observer.dead.keys() == {"frozen"}


def test_where_no_lock_tells_the_heartbeat_does(engine: Engine) -> None:
    register(engine, "silent", "beating", locked=False)
    beat = NOW
    observer = Observer(engine, heartbeat=HEARTBEAT, frozen=0.05)

    def heartbeat() -> None:
        nonlocal beat
        beat += 0.001
        engine.consumers.heartbeat("beating", beat, locked=False)

    observer.look_for(HEARTBEAT + 0.3, heartbeat)
    observer.until_dead("silent")
    assert observer.dead["silent"] >= HEARTBEAT
    assert observer.dead.keys() == {"silent"}


def test_nobody_is_dead_to_itself(engine: Engine) -> None:
    register(engine, "me", locked=False)
    observer = Observer(engine, heartbeat=0.01, frozen=0.01)
    observer.look_for(LOCK_FREE_FOR + 0.2)
    register(engine, "me")
    observer.look_for(LOCK_FREE_FOR + 0.2)
    assert observer.dead == {}


def test_times_are_ones_own_so_that_no_clock_of_another_matters(engine: Engine) -> None:
    register(engine, "past", "future", locked=False)
    engine.consumers.heartbeat("past", NOW - 86_400 * 365, locked=False)
    engine.consumers.heartbeat("future", time.time() + 86_400 * 365, locked=False)
    observer = Observer(engine, heartbeat=HEARTBEAT)
    observer.look_for(HEARTBEAT / 2)
    assert observer.dead == {}
    observer.until_dead("past", "future")
    assert min(observer.dead.values()) >= HEARTBEAT


def test_nothing_is_remembered_of_those_who_have_gone(engine: Engine) -> None:
    watch = FailureDetector(600, None)
    for number in range(3):
        register(engine, f"other {number}")
        watch.find_dead(engine, "me")
        engine.consumers.deregister(f"other {number}")
    watch.find_dead(engine, "me")
    assert (watch._seen, watch._free_since) == ({}, {})


# After an outage


def test_who_was_cut_off_gives_the_others_time_to_come_back(engine: Engine) -> None:
    register(engine, "other")
    observer = Observer(engine)
    observer.until_dead("other")

    observer.watch.pause()
    cut_off = time.monotonic()
    observer.until_dead("other")
    assert time.monotonic() - cut_off >= GRACE_AFTER_OUTAGE


def test_what_was_seen_of_a_lock_before_an_outage_does_not_count(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_detector, "GRACE_AFTER_OUTAGE", 0.0)
    register(engine, "other")
    observer = Observer(engine)
    observer.look_for(LOCK_FREE_FOR * 0.7)
    observer.watch.pause()
    cut_off = time.monotonic()
    observer.until_dead("other")
    assert time.monotonic() - cut_off >= LOCK_FREE_FOR


def test_who_has_not_looked_for_long_was_away_itself_and_does_not_judge_by_that_time(
    engine: Engine, processes: Processes
) -> None:
    """All consumers of a paused machine wake at once, and each finds that the others stood still."""
    register(engine, "other")
    holding(processes, "other")
    observer = Observer(engine, frozen=FROZEN)
    observer.look()
    time.sleep(FROZEN + 0.2)
    woken = time.monotonic()
    assert observer.look() == set()
    beating(engine, "other")()
    observer.until_dead("other")
    assert time.monotonic() - woken >= FROZEN


def test_who_can_look_only_now_and_then_finds_the_dead_all_the_same(engine: Engine) -> None:
    """As one whose jobs keep the interpreter for seconds, again and again."""
    register(engine, "dead")
    observer = Observer(engine)
    for _ in range(3):
        observer.look()
        time.sleep(2 * LOCK_FREE_FOR)
    assert observer.look() == {"dead"}


# The ring


@pytest.fixture
def asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names whose locks were tried."""
    names: list[str] = []
    is_locked = type(engine.consumers).is_locked

    def spy(self: Any, name: str) -> bool:
        names.append(name)
        return is_locked(self, name)

    monkeypatch.setattr(type(engine.consumers), "is_locked", spy)
    return names


def test_each_watches_two_live_neighbours_and_is_watched_by_two(
    engine: Engine, processes: Processes, asked: list[str]
) -> None:
    ring = ["a", "b", "c", "d", "e", "f"]
    register(engine, *ring)
    holding(processes, *ring)
    for name in ring:
        Observer(engine, name=name).look()
    assert asked == [*"bc", *"cd", *"de", *"ef", *"fa", *"ab"]


def test_behind_the_dead_it_looks_on_until_it_has_met_two_that_live(
    engine: Engine, processes: Processes, asked: list[str]
) -> None:
    register(engine, "a", "b", "c", "d", "e", "f", "g", "h")
    holding(processes, "d", "f", "g")
    observer = Observer(engine, name="b")
    observer.look()
    assert asked == ["c", "d", "e", "f"]
    observer.until_dead("c", "e")
    assert observer.dead.keys() == {"c", "e"}, "h and a are for others to find"


def test_who_has_no_lock_and_who_is_frozen_are_found_all_round_the_ring(
    engine: Engine, processes: Processes
) -> None:
    register(engine, "a", "b", "c", "frozen")
    register(engine, "x", locked=False)
    holding(processes, "a", "b", "c", "frozen")
    observer = Observer(engine, heartbeat=HEARTBEAT, frozen=FROZEN, name="a")
    beats = [beating(engine, name) for name in "bc"]
    observer.look_for(HEARTBEAT + 0.3, lambda: [beat() for beat in beats])
    eventually(lambda: [beat() for beat in beats] and observer.look() == {"frozen", "x"})
    assert observer.dead.keys() == {"frozen", "x"}


# Orphans: running jobs of a consumer that has no row


def test_an_orphan_gets_the_time_to_write_its_row_anew(engine: Engine) -> None:
    one(engine, "ghost")
    observer = Observer(engine, heartbeat=HEARTBEAT)
    observer.look_for(HEARTBEAT / 2)
    register(engine, "ghost")
    observer.look_for(HEARTBEAT, beating(engine, "ghost"))
    assert observer.dead == {}
    engine.consumers.deregister("ghost")
    gone = time.monotonic()
    observer.until_dead("ghost")
    assert time.monotonic() - gone >= HEARTBEAT - 0.1


def test_an_orphan_that_holds_its_lock_is_alive(engine: Engine, processes: Processes) -> None:
    holder = holding(processes, "ghost")
    one(engine, "ghost")
    observer = Observer(engine, heartbeat=0.1)
    observer.look_for(0.5)
    assert observer.dead == {}
    holder.kill()
    observer.until_dead("ghost")


def test_an_orphan_is_found_once_though_orphans_are_looked_for_rarely(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(failure_detector, "ORPHANS_EVERY", 600.0)
    job = one(engine, "ghost")
    watch = FailureDetector(0.1, None)
    found: list[Peer] = []

    def look() -> bool:
        peers = watch.find_dead(engine, "me")
        found.extend(peers)
        for peer in peers:
            rescue.rescue(engine, peer)
        return row(job.id)["state"] == "ready"

    with caplog.at_level(logging.WARNING, "djjp"):
        eventually(look)
        for _ in range(20):
            look()
            time.sleep(0.01)
    assert found == [Peer("ghost", None, locked=True)]
    assert len(caplog.records) == 1


# Heartbeat


def test_a_consumer_shows_itself_with_all_that_it_is(engine: Engine) -> None:
    name = ConsumerName.new().text
    before = time.time()
    presence = Heartbeat(engine, name, queues=["mail", "bulk"], limit=7)
    presence.register()

    shown = Consumer.objects.get()
    assert (shown.name, shown.host, shown.pid) == (name, socket.gethostname(), os.getpid())
    assert (shown.queues, shown.concurrency, shown.concurrency_limit) == (
        '["mail", "bulk"]',
        "threads",
        7,
    )
    assert before <= shown.started_at.timestamp() <= time.time()
    assert shown.heartbeat_at == shown.started_at
    assert shown.locked
    assert at_once(lambda own: own.consumers.is_locked(name)) == [True]

    assert presence.beat()
    assert Consumer.objects.get().heartbeat_at > shown.heartbeat_at
    presence.deregister()
    assert not Consumer.objects.exists()
    assert at_once(lambda own: own.consumers.is_locked(name)) == [False]


def test_names_tell_host_and_process_and_are_never_the_same() -> None:
    names = {ConsumerName.new().text for _ in range(100)}
    assert len(names) == 100
    assert {name.rpartition(":")[0] for name in names} == {f"{socket.gethostname()}:{os.getpid()}"}


def test_one_that_others_have_buried_is_told_so_by_its_next_beat(engine: Engine) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, limit=1)
    presence.register()
    assert presence.beat()
    Consumer.objects.all().delete()
    assert not presence.beat()
    assert not Consumer.objects.exists()
    presence.deregister()


@pytest.mark.postgresql_only
def test_a_beat_takes_the_lock_again_that_a_terminated_session_has_lost(engine: Engine) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, limit=1)
    presence.register()
    connections[engine.db.alias].close()
    eventually(lambda: at_once(lambda own: own.consumers.is_locked(presence.name)) == [False])
    assert presence.beat()
    assert at_once(lambda own: own.consumers.is_locked(presence.name)) == [True]
    presence.deregister()


# Rescue, and what is left in the folder


def leave_notes(engine: Engine, name: str) -> tuple[StartJournal, list[str]]:
    """What a dead consumer leaves in the folder: the note of its jobs, all begun, and its lock's file."""
    folder = engine.db.runtime_dir()
    assert folder is not None
    jobs = claim(engine, name)
    note = StartJournal(folder, name, 5)
    note.reserve(jobs)
    for job in jobs:
        note.record(job)
    (folder / f"{name.replace(':', '-')}.lock").touch()
    return note, files_of(engine, name)


def files_of(engine: Engine, name: str) -> list[str]:
    folder = engine.db.runtime_dir()
    assert folder is not None
    return sorted(path.name for path in folder.glob(f"{name.replace(':', '-')}.*"))


def test_a_rescue_reads_what_had_begun_and_clears_up(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    name = ConsumerName.new().text
    register(engine, name)
    [begun_id] = enqueue(engine)
    _, files = leave_notes(engine, name)
    assert len(files) == 2
    [waiting] = enqueue(engine)
    claim(engine, name)

    with caplog.at_level(logging.WARNING, "djjp"):
        rescue.rescue(engine, Peer(name, NOW, locked=True))

    assert (row(begun_id)["state"], row(begun_id)["rescues"]) == ("ready", 1)
    assert (row(waiting)["state"], row(waiting)["rescues"]) == ("ready", 0)
    assert files_of(engine, name) == []
    assert [r.getMessage() for r in caplog.records] == [
        f"consumer {name} is dead; 2 of its jobs are rescued"
    ]


def test_one_that_turns_out_to_live_keeps_its_files_and_nothing_is_said(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its lock's file it would be taken for dead a second later."""
    name = ConsumerName.new().text
    register(engine, name)
    enqueue(engine)
    note, files = leave_notes(engine, name)
    engine.consumers.heartbeat(name, NOW + 1, locked=True)

    with caplog.at_level(logging.WARNING, "djjp"):
        rescue.rescue(engine, Peer(name, NOW, locked=True))

    assert files_of(engine, name) == files
    assert note.is_suspected(), (
        "it has to look, before it begins another job, whether it was in time"
    )
    assert not caplog.records
    assert Job.objects.get().state == "running"
    start_journal.clear(engine.db.runtime_dir(), name)


def test_jobs_that_fail_by_a_death_are_said(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    register(engine, "host:7:a")
    enqueue(engine, on_crash=OnCrash.FAIL)
    enqueue(engine)
    claim(engine, "host:7:a")
    with caplog.at_level(logging.WARNING, "djjp"):
        rescue.rescue(engine, Peer("host:7:a", NOW, locked=True))
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert caplog.records[1].getMessage() == "1 jobs of consumer host:7:a have failed by its death"


def test_a_parent_rescues_at_once_what_its_dead_child_ran_and_nobody_elses(engine: Engine) -> None:
    mine = f"{socket.gethostname()}:4711:aa"
    others = [f"{socket.gethostname()}:47110:bb", "elsewhere:4711:cc"]
    register(engine, mine, *others)
    [job, *theirs] = [one(engine, name) for name in (mine, *others)]

    def rescue_child(own: Engine) -> tuple[int, bool]:
        return rescue.rescue_process(4711), connections[own.db.alias].connection is None

    assert at_once(rescue_child) == [(1, True)]
    assert row(job.id)["state"] == "ready"
    assert {row(other.id)["state"] for other in theirs} == {"running"}
    assert [peer.name for peer in engine.consumers.peers()] == sorted(others)
