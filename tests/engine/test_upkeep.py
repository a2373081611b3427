"""What keeps the queue going while consumers come, go and die: heartbeats, locks, rescue, pruning."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction

from djjp.engine import Claimed, Engine, Outcome, Peer, Progress
from djjp.engine.postgresql.database import PostgreSQLDatabase
from djjp.ids import new_id
from djjp.models import Attempt, Consumer, Job, OnCrash, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    enqueue,
    everything,
    failed,
    finish,
    one,
    release,
    row,
)
from tests.support.factories import new_job
from tests.support.processes import Processes, eventually
from tests.support.projects import alias_for

WEEK = 7 * 86_400.0


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def register(engine: Engine, name: str, heartbeat: float = NOW, locked: bool = True) -> Peer:
    """Write a consumer's row; returns what others see of it."""
    engine.consumers.register(
        Consumer(
            name=name,
            host="host",
            pid=7,
            concurrency="threads",
            concurrency_limit=10,
            started_at=at(heartbeat),
            heartbeat_at=at(heartbeat),
            locked=locked,
        )
    )
    return Peer(name, heartbeat, locked)


def rescue(
    engine: Engine, peer: Peer, *, most: int = 3, begun: set[UUID] | None = None
) -> tuple[int, int] | None:
    return engine.rescue.rescue_jobs(peer, NOW + 9, max_rescues=most, begun=begun)


# Consumers


def test_who_is_registered_is_seen_with_its_heartbeat_and_lock(engine: Engine) -> None:
    two, one = register(engine, "two", NOW + 0.000_001, locked=False), register(engine, "one")
    assert engine.consumers.peers() == [one, two]
    again = register(engine, "one", NOW + 5)
    assert engine.consumers.peers() == [again, two]


def test_a_heartbeat_moves_the_row_and_tells_when_there_is_none(engine: Engine) -> None:
    register(engine, "one")
    two = register(engine, "two")
    assert engine.consumers.heartbeat("one", NOW + 2.5, locked=False)
    assert engine.consumers.peers() == [Peer("one", NOW + 2.5, locked=False), two]
    engine.consumers.deregister("one")
    assert not engine.consumers.heartbeat("one", NOW + 3, locked=True)
    assert engine.consumers.peers() == [two], (
        "a row that others have taken away does not come back by a beat"
    )


def test_orphans_are_those_who_run_jobs_and_have_no_row(engine: Engine) -> None:
    register(engine, "known")
    enqueue(engine, 5)
    claim(engine, "ghost", 2)
    claim(engine, "known", 1)
    release(engine, "gone", *claim(engine, "gone", 1))
    finish(engine, "ended", *map(done, claim(engine, "ended", 1)))
    assert engine.consumers.orphans() == [Peer("ghost", None, locked=True)]


def test_what_a_consumer_runs_is_told_with_its_attempts(engine: Engine) -> None:
    enqueue(engine, 3)
    first, second = claim(engine, "one", 2)
    claim(engine, "two", 1)
    Job.objects.filter(pk=second.id).update(attempts=4)
    assert engine.consumers.running_jobs("one") == {first.id: 1, second.id: 4}
    assert engine.consumers.running_jobs("nobody") == {}


# The lock that dies with its process

HOLDER = """
import django; django.setup()
import signal
from djjp import engine

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
queue = engine.current()
print(queue.consumers.is_locked("mine"), queue.consumers.is_locked("nobody's"), flush=True)
for _ in range(2):
    print(*[queue.consumers.acquire_lock(name) for name in ("theirs", "theirs", "another")], flush=True)
    signal.sigwait({signal.SIGUSR1})
    queue.consumers.release_lock("theirs")
    print("let go", flush=True)
    signal.sigwait({signal.SIGUSR1})
"""


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_is_seen_by_other_processes_until_it_is_let_go_or_its_process_dies(
    engine: Engine, processes: Processes
) -> None:
    assert engine.consumers.acquire_lock("mine")
    holder = processes.python(HOLDER)
    assert line(holder) == "True False"

    assert line(holder) == "True True True", "to hold what one holds is to keep it"
    assert engine.consumers.is_locked("theirs")
    assert not engine.consumers.acquire_lock("theirs"), "one lock has one holder"
    assert not engine.consumers.is_locked("nobody's")

    holder.send_signal(signal.SIGUSR1)
    assert line(holder) == "let go"
    assert not engine.consumers.is_locked("theirs")
    assert engine.consumers.is_locked("another")

    holder.send_signal(signal.SIGUSR1)
    assert line(holder) == "True True True"
    holder.send_signal(signal.SIGSTOP)
    assert engine.consumers.is_locked("theirs"), "stopped is not dead"
    holder.kill()
    eventually(lambda: not engine.consumers.is_locked("theirs"))
    engine.consumers.release_lock("mine")
    assert not engine.consumers.is_locked("mine")


def test_a_lock_that_is_not_ours_is_not_let_go(engine: Engine) -> None:
    """A server would warn of each such call in its log, and tell the caller."""
    said: list[object] = []
    engine.db.connection.ensure_connection()
    driver: Any = engine.db.connection.connection
    if engine.db.alias == "postgresql":
        driver.add_notice_handler(said.append)
    engine.consumers.release_lock("nobody's")
    assert not engine.consumers.is_locked("nobody's")
    assert said == []


def test_those_who_ask_at_the_same_moment_do_not_take_each_other_for_the_holder(
    engine: Engine,
) -> None:
    with transaction.atomic(using=engine.db.alias):  # where a lock that asking took would last
        assert not engine.consumers.is_locked("theirs")
        assert at_once(lambda own: own.consumers.is_locked("theirs")) == [False]


@pytest.mark.postgresql_only
def test_a_terminated_session_frees_the_lock_and_the_next_one_takes_it_again(
    engine: Engine,
) -> None:
    assert engine.consumers.acquire_lock("mine")
    connection: Any = engine.db.connection
    pid = connection.connection.info.backend_pid

    def terminate(own: Engine) -> None:
        with own.db.connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])

    at_once(terminate)
    connection.close()
    eventually(lambda: at_once(lambda own: own.consumers.is_locked("mine")) == [False])
    assert engine.consumers.acquire_lock("mine")
    assert at_once(lambda own: own.consumers.is_locked("mine")) == [True]
    engine.consumers.release_lock("mine")


class Pooler(threading.Thread):
    """Hands the bytes of one client on to a server; like a pooler, it gives the session a number of its own."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True)
        self._server = host, port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]

    def run(self) -> None:
        with self._door:
            client, _ = self._door.accept()
        host, port = self._server
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
        else:
            server = socket.create_connection((host, port))
        with client, server, server.makefile("rb") as answers:
            threading.Thread(target=self._hand_on, args=[client, server], daemon=True).start()
            self._renumber(client, answers)
            self._hand_on(server, client)

    def _renumber(self, client: socket.socket, answers: Any) -> None:
        """Hand on what the server says until it names the process of the session, and name another."""
        kind = b""
        while kind != b"K":
            kind, length = answers.read(1), answers.read(4)
            body = answers.read(int.from_bytes(length, "big") - 4)
            client.sendall(kind + length + (bytes(4) + body[4:] if kind == b"K" else body))
        client.sendall(answers.read1())

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.mark.postgresql_only
def test_behind_a_pooler_no_lock_tells(engine: Engine) -> None:
    """The session that would hold it is not this process's, and goes on when the process is dead."""
    engine.db.connection.ensure_connection()
    server: Any = engine.db.connection.connection
    pooler = Pooler(server.info.host, server.info.port)
    pooler.start()
    options = dict(engine.db.connection.settings_dict["OPTIONS"])
    options |= {"host": "127.0.0.1", "sslmode": "disable", "gssencmode": "disable"}
    there = {"HOST": "127.0.0.1", "PORT": pooler.port, "OPTIONS": options}
    with alias_for(connections.settings[engine.db.alias] | there) as alias:
        assert not PostgreSQLDatabase(alias).acquire_lock("mine")
        assert not PostgreSQLDatabase(alias).is_locked("mine")
    assert not engine.consumers.is_locked("mine")
    pooler.join(10)


# Rescue


def test_the_jobs_of_a_dead_consumer_are_ready_again_and_their_rescue_is_counted(
    engine: Engine,
) -> None:
    peer, other = register(engine, "one"), register(engine, "two")
    enqueue(engine, 3)
    mine, theirs = claim(engine, "one", 2), claim(engine, "two", 1)
    before = row(theirs[0].id)

    assert rescue(engine, peer) == (2, 0)

    rescued = Job.objects.filter(pk__in=[job.id for job in mine])
    assert set(rescued.values_list("state", "attempts", "rescues", "finished_at")) == {
        ("ready", 1, 1, None)
    }
    assert row(theirs[0].id) == before
    assert engine.consumers.peers() == [other]
    assert not Attempt.objects.exists()
    assert [(job.attempt, job.rescues) for job in claim(engine, "two")] == [(2, 1)] * 2


def test_what_had_not_begun_is_given_back_as_if_it_had_never_been_claimed(engine: Engine) -> None:
    peer = register(engine, "one")
    ids = enqueue(engine, 3)
    before = [row(id) for id in ids]
    claim(engine, "one")

    assert rescue(engine, peer, begun={ids[1], new_id()}) == (3, 0)

    assert [row(ids[0]), row(ids[2])] == [before[0], before[2]]
    assert (row(ids[1])["state"], row(ids[1])["rescues"]) == ("ready", 1)


def test_a_job_that_must_not_run_twice_fails_with_its_consumer(engine: Engine) -> None:
    peer = register(engine, "host:7:one")
    begun, waiting = enqueue(engine, 2, on_crash=OnCrash.FAIL)
    claim(engine, "host:7:one")

    assert rescue(engine, peer, begun={begun}) == (2, 1)

    found = row(begun)
    assert (found["state"], found["attempts"], found["rescues"]) == ("failed", 1, 0)
    assert found["finished_at"] == at(NOW + 9)
    error = Attempt.objects.get()
    assert (error.job_id, error.number, error.consumer) == (begun, 1, "host:7:one")
    assert (error.started_at, error.finished_at) == (at(NOW), at(NOW + 9))
    assert error.exception_class == "ConsumerDied"
    assert "host:7:one" in error.message
    assert "must not run twice" in error.message
    assert (row(waiting)["state"], row(waiting)["attempts"]) == ("ready", 0), "it has not run once"


@pytest.mark.parametrize("most", [0, 2])
def test_a_job_that_was_rescued_too_often_fails_with_the_reason(engine: Engine, most: int) -> None:
    [id] = enqueue(engine)
    for number in range(most):
        claim(engine, f"dead {number}")
        assert rescue(engine, register(engine, f"dead {number}"), most=most) == (1, 0)
    claim(engine, "the last")

    assert rescue(engine, register(engine, "the last"), most=most) == (1, 1)

    found = row(id)
    assert (found["state"], found["attempts"], found["rescues"]) == ("failed", most + 1, most)
    assert found["finished_at"] == at(NOW + 9)
    error = Attempt.objects.get()
    assert (error.number, error.exception_class) == (most + 1, "ConsumerDied")
    assert (f"after {most} rescues" in error.message) == (most > 0)
    assert "twice" not in error.message


@pytest.mark.parametrize("on_crash", OnCrash)
@pytest.mark.parametrize("begun", [True, False])
def test_a_job_that_someone_wants_to_stop_does_not_run_again(
    engine: Engine, on_crash: OnCrash, begun: bool
) -> None:
    peer = register(engine, "one")
    [id] = enqueue(engine, on_crash=on_crash)
    claim(engine, "one")
    engine.control.cancel([id], NOW + 5, "no longer needed")

    assert rescue(engine, peer, most=0, begun={id} if begun else set()) == (1, 0)

    found = row(id)
    assert (found["state"], found["reason"]) == ("cancelled", "no longer needed")
    assert (found["finished_at"], found["rescues"]) == (at(NOW + 9), 0)
    assert not Attempt.objects.exists()


def test_a_consumer_that_has_moved_since_it_was_seen_is_left_alone(engine: Engine) -> None:
    peer = register(engine, "one")
    one(engine, "one")
    engine.consumers.heartbeat("one", NOW + 0.001, locked=True)
    before, peers = everything(), engine.consumers.peers()
    assert rescue(engine, peer) is None
    assert (everything(), engine.consumers.peers()) == (before, peers)


def test_one_without_a_row_is_rescued_unless_it_has_written_one_since(engine: Engine) -> None:
    job = one(engine, "ghost")
    orphan = Peer("ghost", None, locked=True)
    register(engine, "ghost")
    before = everything()
    assert rescue(engine, orphan) is None
    assert everything() == before

    engine.consumers.deregister("ghost")
    assert rescue(engine, orphan) == (1, 0)
    assert row(job.id)["state"] == "ready"


def test_one_that_had_nothing_to_do_leaves_nothing(engine: Engine) -> None:
    peer = register(engine, "one")
    assert rescue(engine, peer) == (0, 0)
    assert engine.consumers.peers() == []


def test_of_two_rescuers_one_rescues(engine: Engine) -> None:
    for _ in range(5):
        peer = register(engine, "one")
        enqueue(engine, 4)
        claim(engine, "one")
        results = at_once(*[partial(rescue, peer=peer)] * 2)
        assert sorted(results, key=str) == [(4, 0), None]
        assert set(Job.objects.values_list("state", "rescues")) == {("ready", 1)}
        Job.objects.all().delete()


def test_many_are_rescued_at_once(engine: Engine) -> None:
    peer = register(engine, "one")
    ids = enqueue(engine, 800) + enqueue(engine, 200, on_crash=OnCrash.FAIL)
    claim(engine, "one", 1000)
    assert rescue(engine, peer, begun=set(ids[100:])) == (1000, 200)
    told = Job.objects.values_list("state", "attempts", "rescues")
    assert set(told.filter(pk__in=ids[:100])) == {("ready", 0, 0)}
    assert set(told.filter(pk__in=ids[100:800])) == {("ready", 1, 1)}
    assert set(told.filter(pk__in=ids[800:])) == {("failed", 1, 0)}


def test_idle_consumers_are_woken_for_what_was_rescued(engine: Engine) -> None:
    peer = register(engine, "one")
    one(engine, "one")
    listener = engine.db.listener()
    listener.woken()
    at_once(partial(rescue, peer=peer))
    eventually(listener.woken)


# Rescue against what the dead one still says: a late word changes nothing, an early one stands.


def rescued(engine: Engine, job: Claimed) -> None:
    assert rescue(engine, register(engine, "one")) == (1, 0)


def rescued_and_taken(engine: Engine, job: Claimed) -> None:
    rescued(engine, job)
    assert len(claim(engine, "two")) == 1


def rescued_and_finished(engine: Engine, job: Claimed) -> None:
    rescued(engine, job)
    assert finish(engine, "two", *map(done, claim(engine, "two"))) == {job.id}


def failed_by_rescue(engine: Engine, job: Claimed) -> None:
    assert rescue(engine, register(engine, "one"), most=0) == (1, 1)


def failed_by_rescue_and_retried(engine: Engine, job: Claimed) -> None:
    failed_by_rescue(engine, job)
    assert engine.control.retry([job.id]) == 1


def given_back_by_rescue(engine: Engine, job: Claimed) -> None:
    assert rescue(engine, register(engine, "one"), begun=set()) == (1, 0)


def given_back_by_rescue_and_taken(engine: Engine, job: Claimed) -> None:
    given_back_by_rescue(engine, job)
    assert [again.attempt for again in claim(engine, "two")] == [job.attempt]


def put_off(job: Claimed) -> Outcome:
    return Outcome(job, State.SCHEDULED, NOW, NOW + 1, run_after=NOW + 60)


LATE: dict[str, Callable[[Engine, Claimed], object]] = {
    "finish": lambda engine, job: finish(engine, "one", done(job)),
    "finish as failed": lambda engine, job: finish(engine, "one", failed(job)),
    "finish for another attempt": lambda engine, job: finish(engine, "one", put_off(job)),
    "release": lambda engine, job: release(engine, "one", job),
    "progress": lambda engine, job: engine.jobs.record_progress("one", [Progress(job, 5, 9)]),
    "rescue": lambda engine, job: rescue(engine, Peer("one", NOW, locked=True)),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
@pytest.mark.parametrize(
    "taken",
    [
        rescued,
        rescued_and_taken,
        rescued_and_finished,
        failed_by_rescue,
        failed_by_rescue_and_retried,
        given_back_by_rescue,
        given_back_by_rescue_and_taken,
    ],
)
def test_a_late_word_of_one_that_was_taken_for_dead_changes_nothing(
    engine: Engine,
    taken: Callable[[Engine, Claimed], None],
    late: Callable[[Engine, Claimed], object],
) -> None:
    job = one(engine, "one")
    taken(engine, job)
    before = everything()
    late(engine, job)
    assert everything() == before


@pytest.mark.parametrize("word", ["finish", "finish as failed", "finish for another attempt"])
def test_what_ended_before_the_rescue_stays_as_it_ended(engine: Engine, word: str) -> None:
    job = one(engine, "one")
    LATE[word](engine, job)
    before = everything()
    assert rescue(engine, register(engine, "one")) == (0, 0)
    assert everything() == before


def meanwhile(engine: Engine, second: Callable[[Engine], Any]) -> threading.Thread:
    """Begin something in a thread; what it needs may be locked until this thread's turn commits."""
    thread = threading.Thread(target=at_once, args=[second])
    thread.start()
    time.sleep(0.1)
    return thread


def test_a_finish_that_waits_for_the_rescue_is_refused_and_the_other_way_round(
    engine: Engine,
) -> None:
    """Each begins while the other has written and not committed."""
    accepted: list[set[UUID]] = []
    job, peer = one(engine, "one"), register(engine, "one")
    with engine.db.transaction():
        assert rescue(engine, peer) == (1, 0)
        late = meanwhile(engine, lambda own: accepted.append(finish(own, "one", done(job))))
    late.join()
    assert accepted == [set()]
    assert (row(job.id)["state"], row(job.id)["rescues"]) == ("ready", 1)

    [job], peer = claim(engine, "one"), register(engine, "one")
    with engine.db.transaction():
        assert engine.jobs.finish("one", [failed(job)]) == {job.id}
        late = meanwhile(engine, partial(rescue, peer=peer))
    late.join()
    assert (row(job.id)["state"], row(job.id)["rescues"]) == ("failed", 1)
    assert [error.message for error in Attempt.objects.all()] == ["it broke"]


@pytest.mark.parametrize("begun", [None, set()], ids=["begun", "in line"])
def test_a_job_that_goes_to_another_while_it_is_being_rescued_stays_with_that_one(
    engine: Engine, begun: set[UUID] | None
) -> None:
    """The rescue has read that the dead one runs it, and waits to write."""
    job, peer = one(engine, "one"), register(engine, "one")
    results: list[Any] = []
    with engine.db.transaction():
        assert engine.jobs.release("one", [job]) == {job.id}
        assert [taken.id for taken in engine.jobs.claim("two", 1, NOW)] == [job.id]
        late = meanwhile(engine, lambda own: results.append(rescue(own, peer, begun=begun)))
    late.join()
    assert results == [(0, 0)]
    assert (row(job.id)["state"], row(job.id)["consumer"]) == ("running", "two")
    assert (row(job.id)["attempts"], row(job.id)["rescues"]) == (1, 0)


@pytest.mark.parametrize("word", ["finish as failed", "release"])
def test_of_a_rescue_and_a_report_at_once_exactly_one_takes_the_job(
    engine: Engine, word: str
) -> None:
    for _ in range(8):
        job, peer = one(engine, "one"), register(engine, "one")
        accepted, saved = at_once(
            lambda own, job=job: LATE[word](own, job),
            lambda own, peer=peer: rescue(own, peer, most=0),
        )
        assert saved in ((1, 1), (0, 0))
        assert (job.id in accepted) == (saved == (0, 0))
        errors = [error.exception_class for error in Attempt.objects.filter(job_id=job.id)]
        if saved == (1, 1):
            assert (row(job.id)["state"], errors) == ("failed", ["ConsumerDied"])
        elif word == "release":
            assert (row(job.id)["state"], errors) == ("ready", [])
        else:
            assert (row(job.id)["state"], errors) == ("failed", ["E"])
        Job.objects.all().delete()


# What running jobs say and are told


def test_progress_is_noted_for_the_attempt_that_runs(engine: Engine) -> None:
    enqueue(engine, 2)
    first, second = claim(engine, "one")
    engine.jobs.record_progress("one", [Progress(first, 3, 10), Progress(second, 7, None)])
    assert (row(first.id)["progress_done"], row(first.id)["progress_total"]) == (3, 10)
    assert (row(second.id)["progress_done"], row(second.id)["progress_total"]) == (7, None)

    engine.jobs.record_progress("two", [Progress(first, 9, 9)])
    engine.jobs.record_progress("one", [Progress(first._replace(attempt=2), 9, 9)])
    finish(engine, "one", done(second))
    engine.jobs.record_progress("one", [Progress(second, 9, 9)])
    assert [row(job.id)["progress_done"] for job in (first, second)] == [3, 7]


def test_a_consumer_is_told_which_of_its_running_jobs_to_stop(engine: Engine) -> None:
    enqueue(engine, 6)
    mine, theirs = claim(engine, "one", 3), claim(engine, "two", 2)
    assert engine.jobs.to_cancel("one") == []
    ids = [job.id for job in [*mine[1:], *theirs]]
    engine.control.cancel(
        [*ids, *Job.objects.filter(state="ready").values_list("pk", flat=True)], NOW
    )
    finish(engine, "one", done(mine[2]))

    assert engine.jobs.to_cancel("one") == [mine[1].id]
    assert set(engine.jobs.to_cancel("two")) == {job.id for job in theirs}


# Pruning


def ended(engine: Engine, state: State, when: float, count: int = 1) -> list[UUID]:
    """Jobs that were made and ended at a time, in the order of their ids."""
    jobs = [new_job(created_at=when) for _ in range(count)]
    engine.jobs.enqueue_many(jobs)
    ids = [job.id for job in jobs]
    Job.objects.filter(pk__in=ids).update(state=state, finished_at=at(when), attempts=1)
    return ids


def left() -> list[UUID]:
    return list(Job.objects.order_by("pk").values_list("pk", flat=True))


def test_only_what_ended_in_these_states_and_long_enough_ago_is_pruned(engine: Engine) -> None:
    ids = {state: ended(engine, state, NOW - WEEK) for state in State}
    young = ended(engine, State.SUCCEEDED, NOW)
    for state in (State.SCHEDULED, State.BLOCKED, State.READY, State.RUNNING):
        Job.objects.filter(state=state).update(finished_at=None)

    assert engine.pruning.prune([State.SUCCEEDED], NOW - WEEK, None, 100)[0] == 0, (
        "ended at the bound"
    )
    assert engine.pruning.prune([State.SUCCEEDED], NOW - WEEK + 0.001, None, 100)[0] == 1
    kept = [id for state in State if state != State.SUCCEEDED for id in ids[state]]
    assert set(left()) == {*kept, *young}

    assert engine.pruning.prune([State.FAILED, State.CANCELLED], NOW, None, 100)[0] == 2
    assert set(left()) == {*kept, *young} - {*ids[State.FAILED], *ids[State.CANCELLED]}


def test_a_walk_goes_on_where_it_was_and_ends_at_the_last_row(engine: Engine) -> None:
    old = ended(engine, State.SUCCEEDED, NOW - WEEK, 7)

    count, place = engine.pruning.prune([State.SUCCEEDED], NOW, None, 3)
    assert (count, place) == (3, old[2])
    assert left() == old[3:]
    count, place = engine.pruning.prune([State.SUCCEEDED], NOW, old[4], 2)
    assert (count, place) == (2, old[6])
    assert left() == old[3:5], "what the walk has passed is not looked at"
    assert engine.pruning.prune([State.SUCCEEDED], NOW, place, 3) == (0, None)
    assert engine.pruning.prune([State.SUCCEEDED], NOW, None, 3) == (2, None)


def test_a_step_looks_at_no_more_rows_than_it_was_told_whatever_they_are(engine: Engine) -> None:
    waiting = [new_job(created_at=NOW - WEEK) for _ in range(5)]
    engine.jobs.enqueue_many(waiting)
    old = ended(engine, State.SUCCEEDED, NOW - WEEK, 2)

    assert engine.pruning.prune([State.SUCCEEDED], NOW, None, 5) == (0, waiting[4].id)
    assert engine.pruning.prune([State.SUCCEEDED], NOW, waiting[4].id, 5) == (2, None)
    assert not set(old) & set(left())


def test_a_walk_ends_at_rows_that_are_too_young_to_have_ended_long_ago(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, NOW - WEEK, 2)
    ended(engine, State.SUCCEEDED, NOW, 10)
    assert engine.pruning.prune([State.SUCCEEDED], NOW - 1, None, 4) == (2, None)


def test_the_errors_of_a_pruned_job_go_with_it_and_those_of_others_stay(engine: Engine) -> None:
    enqueue(engine, 2, created_at=NOW)
    first, second = claim(engine)
    finish(engine, "one", failed(first, "gone"), failed(second, "kept"))
    Job.objects.filter(pk=second.id).update(finished_at=at(NOW + WEEK))

    assert engine.pruning.prune([State.FAILED], NOW + 60, None, 100)[0] == 1

    assert left() == [second.id]
    assert [error.message for error in Attempt.objects.all()] == ["kept"]


@pytest.mark.parametrize("again", ["ready", "failed"])
def test_a_job_that_is_retried_meanwhile_is_not_deleted(engine: Engine, again: str) -> None:
    """Between what the walk has read and what it deletes; in that time it may also have failed anew."""
    enqueue(engine, 2, created_at=NOW)
    first, second = claim(engine)
    finish(engine, "one", failed(first, "gone"), failed(second, "kept"))

    def retry(own: Engine) -> None:
        assert own.control.retry([second.id]) == 1
        if again == "failed":
            [job] = claim(own, "two")
            finish(own, "two", failed(job)._replace(finished_at=NOW + WEEK))

    retried: list[Any] = []

    def before_the_delete(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if not retried and not sql.startswith("SELECT"):
            retried.append(at_once(retry))
        return execute(sql, *rest)

    with engine.db.connection.execute_wrapper(before_the_delete):
        count, _ = engine.pruning.prune([State.FAILED], NOW + 60, None, 100)

    assert retried
    assert count == 1
    assert left() == [second.id]
    assert row(second.id)["state"] == again
    assert {error.job_id for error in Attempt.objects.all()} == {second.id}
