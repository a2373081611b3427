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

from djjp.engine import Claimed, Claims, Outcome, Peer, Progress
from djjp.engine.postgresql.jobs import PostgreSQLClaims
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


def register(queue: Claims, name: str, heartbeat: float = NOW, locked: bool = True) -> Peer:
    """Write a consumer's row; returns what others see of it."""
    queue.register(
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
    queue: Claims, peer: Peer, *, most: int = 3, begun: set[UUID] | None = None
) -> tuple[int, int] | None:
    return queue.rescue(peer, NOW + 9, max_rescues=most, begun=begun)


# Consumers


def test_who_is_registered_is_seen_with_its_heartbeat_and_lock(queue: Claims) -> None:
    two, one = register(queue, "two", NOW + 0.000_001, locked=False), register(queue, "one")
    assert queue.peers() == [one, two]
    again = register(queue, "one", NOW + 5)
    assert queue.peers() == [again, two]


def test_a_heartbeat_moves_the_row_and_tells_when_there_is_none(queue: Claims) -> None:
    register(queue, "one")
    two = register(queue, "two")
    assert queue.heartbeat("one", NOW + 2.5, locked=False)
    assert queue.peers() == [Peer("one", NOW + 2.5, locked=False), two]
    queue.unregister("one")
    assert not queue.heartbeat("one", NOW + 3, locked=True)
    assert queue.peers() == [two], "a row that others have taken away does not come back by a beat"


def test_orphans_are_those_who_run_jobs_and_have_no_row(queue: Claims) -> None:
    register(queue, "known")
    enqueue(queue, 5)
    claim(queue, "ghost", 2)
    claim(queue, "known", 1)
    release(queue, "gone", *claim(queue, "gone", 1))
    finish(queue, "ended", *map(done, claim(queue, "ended", 1)))
    assert queue.orphans() == [Peer("ghost", None, locked=True)]


def test_what_a_consumer_runs_is_told_with_its_attempts(queue: Claims) -> None:
    enqueue(queue, 3)
    first, second = claim(queue, "one", 2)
    claim(queue, "two", 1)
    Job.objects.filter(pk=second.id).update(attempts=4)
    assert queue.held_by("one") == {first.id: 1, second.id: 4}
    assert queue.held_by("nobody") == {}


# The lock that dies with its process

HOLDER = """
import django; django.setup()
import signal
from djjp import engine

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
queue = engine.queue()
print(queue.is_held("mine"), queue.is_held("nobody's"), flush=True)
for _ in range(2):
    print(queue.hold("theirs"), queue.hold("theirs"), queue.hold("another"), flush=True)
    signal.sigwait({signal.SIGUSR1})
    queue.let_go("theirs")
    print("let go", flush=True)
    signal.sigwait({signal.SIGUSR1})
"""


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_is_seen_by_other_processes_until_it_is_let_go_or_its_process_dies(
    queue: Claims, processes: Processes
) -> None:
    assert queue.hold("mine")
    holder = processes.python(HOLDER)
    assert line(holder) == "True False"

    assert line(holder) == "True True True", "to hold what one holds is to keep it"
    assert queue.is_held("theirs")
    assert not queue.hold("theirs"), "one lock has one holder"
    assert not queue.is_held("nobody's")

    holder.send_signal(signal.SIGUSR1)
    assert line(holder) == "let go"
    assert not queue.is_held("theirs")
    assert queue.is_held("another")

    holder.send_signal(signal.SIGUSR1)
    assert line(holder) == "True True True"
    holder.send_signal(signal.SIGSTOP)
    assert queue.is_held("theirs"), "stopped is not dead"
    holder.kill()
    eventually(lambda: not queue.is_held("theirs"))
    queue.let_go("mine")
    assert not queue.is_held("mine")


def test_a_lock_that_is_not_ours_is_not_let_go(queue: Claims) -> None:
    """A server would warn of each such call in its log, and tell the caller."""
    said: list[object] = []
    queue.connection.ensure_connection()
    driver: Any = queue.connection.connection
    if queue.alias == "postgresql":
        driver.add_notice_handler(said.append)
    queue.let_go("nobody's")
    assert not queue.is_held("nobody's")
    assert said == []


def test_those_who_ask_at_the_same_moment_do_not_take_each_other_for_the_holder(
    queue: Claims,
) -> None:
    with transaction.atomic(using=queue.alias):  # where a lock that asking took would last
        assert not queue.is_held("theirs")
        assert at_once(lambda own: own.is_held("theirs")) == [False]


@pytest.mark.parametrize("queue", ["postgresql"], indirect=True)
def test_a_terminated_session_frees_the_lock_and_the_next_one_takes_it_again(queue: Claims) -> None:
    assert queue.hold("mine")
    connection: Any = queue.connection
    pid = connection.connection.info.backend_pid

    def terminate(own: Claims) -> None:
        with own.connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])

    at_once(terminate)
    connection.close()
    eventually(lambda: at_once(lambda own: own.is_held("mine")) == [False])
    assert queue.hold("mine")
    assert at_once(lambda own: own.is_held("mine")) == [True]
    queue.let_go("mine")


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


@pytest.mark.parametrize("queue", ["postgresql"], indirect=True)
def test_behind_a_pooler_no_lock_tells(queue: Claims) -> None:
    """The session that would hold it is not this process's, and goes on when the process is dead."""
    queue.connection.ensure_connection()
    server: Any = queue.connection.connection
    pooler = Pooler(server.info.host, server.info.port)
    pooler.start()
    options = dict(queue.connection.settings_dict["OPTIONS"])
    options |= {"host": "127.0.0.1", "sslmode": "disable", "gssencmode": "disable"}
    there = {"HOST": "127.0.0.1", "PORT": pooler.port, "OPTIONS": options}
    with alias_for(connections.settings[queue.alias] | there) as alias:
        assert not PostgreSQLClaims(alias).hold("mine")
        assert not PostgreSQLClaims(alias).is_held("mine")
    assert not queue.is_held("mine")
    pooler.join(10)


# Rescue


def test_the_jobs_of_a_dead_consumer_are_ready_again_and_their_rescue_is_counted(
    queue: Claims,
) -> None:
    peer, other = register(queue, "one"), register(queue, "two")
    enqueue(queue, 3)
    mine, theirs = claim(queue, "one", 2), claim(queue, "two", 1)
    before = row(theirs[0].id)

    assert rescue(queue, peer) == (2, 0)

    rescued = Job.objects.filter(pk__in=[job.id for job in mine])
    assert set(rescued.values_list("state", "attempts", "rescues", "finished_at")) == {
        ("ready", 1, 1, None)
    }
    assert row(theirs[0].id) == before
    assert queue.peers() == [other]
    assert not Attempt.objects.exists()
    assert [(job.attempt, job.rescues) for job in claim(queue, "two")] == [(2, 1)] * 2


def test_what_had_not_begun_is_given_back_as_if_it_had_never_been_claimed(queue: Claims) -> None:
    peer = register(queue, "one")
    ids = enqueue(queue, 3)
    before = [row(id) for id in ids]
    claim(queue, "one")

    assert rescue(queue, peer, begun={ids[1], new_id()}) == (3, 0)

    assert [row(ids[0]), row(ids[2])] == [before[0], before[2]]
    assert (row(ids[1])["state"], row(ids[1])["rescues"]) == ("ready", 1)


def test_a_job_that_must_not_run_twice_fails_with_its_consumer(queue: Claims) -> None:
    peer = register(queue, "host:7:one")
    begun, waiting = enqueue(queue, 2, on_crash=OnCrash.FAIL)
    claim(queue, "host:7:one")

    assert rescue(queue, peer, begun={begun}) == (2, 1)

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
def test_a_job_that_was_rescued_too_often_fails_with_the_reason(queue: Claims, most: int) -> None:
    [id] = enqueue(queue)
    for number in range(most):
        claim(queue, f"dead {number}")
        assert rescue(queue, register(queue, f"dead {number}"), most=most) == (1, 0)
    claim(queue, "the last")

    assert rescue(queue, register(queue, "the last"), most=most) == (1, 1)

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
    queue: Claims, on_crash: OnCrash, begun: bool
) -> None:
    peer = register(queue, "one")
    [id] = enqueue(queue, on_crash=on_crash)
    claim(queue, "one")
    queue.cancel([id], NOW + 5, "no longer needed")

    assert rescue(queue, peer, most=0, begun={id} if begun else set()) == (1, 0)

    found = row(id)
    assert (found["state"], found["reason"]) == ("cancelled", "no longer needed")
    assert (found["finished_at"], found["rescues"]) == (at(NOW + 9), 0)
    assert not Attempt.objects.exists()


def test_a_consumer_that_has_moved_since_it_was_seen_is_left_alone(queue: Claims) -> None:
    peer = register(queue, "one")
    one(queue, "one")
    queue.heartbeat("one", NOW + 0.001, locked=True)
    before, peers = everything(), queue.peers()
    assert rescue(queue, peer) is None
    assert (everything(), queue.peers()) == (before, peers)


def test_one_without_a_row_is_rescued_unless_it_has_written_one_since(queue: Claims) -> None:
    job = one(queue, "ghost")
    orphan = Peer("ghost", None, locked=True)
    register(queue, "ghost")
    before = everything()
    assert rescue(queue, orphan) is None
    assert everything() == before

    queue.unregister("ghost")
    assert rescue(queue, orphan) == (1, 0)
    assert row(job.id)["state"] == "ready"


def test_one_that_had_nothing_to_do_leaves_nothing(queue: Claims) -> None:
    peer = register(queue, "one")
    assert rescue(queue, peer) == (0, 0)
    assert queue.peers() == []


def test_of_two_rescuers_one_rescues(queue: Claims) -> None:
    for _ in range(5):
        peer = register(queue, "one")
        enqueue(queue, 4)
        claim(queue, "one")
        results = at_once(*[partial(rescue, peer=peer)] * 2)
        assert sorted(results, key=str) == [(4, 0), None]
        assert set(Job.objects.values_list("state", "rescues")) == {("ready", 1)}
        Job.objects.all().delete()


def test_many_are_rescued_at_once(queue: Claims) -> None:
    peer = register(queue, "one")
    ids = enqueue(queue, 800) + enqueue(queue, 200, on_crash=OnCrash.FAIL)
    claim(queue, "one", 1000)
    assert rescue(queue, peer, begun=set(ids[100:])) == (1000, 200)
    told = Job.objects.values_list("state", "attempts", "rescues")
    assert set(told.filter(pk__in=ids[:100])) == {("ready", 0, 0)}
    assert set(told.filter(pk__in=ids[100:800])) == {("ready", 1, 1)}
    assert set(told.filter(pk__in=ids[800:])) == {("failed", 1, 0)}


def test_idle_consumers_are_woken_for_what_was_rescued(queue: Claims) -> None:
    peer = register(queue, "one")
    one(queue, "one")
    listener = queue.listener()
    listener.woken()
    at_once(partial(rescue, peer=peer))
    eventually(listener.woken)


# Rescue against what the dead one still says: a late word changes nothing, an early one stands.


def rescued(queue: Claims, job: Claimed) -> None:
    assert rescue(queue, register(queue, "one")) == (1, 0)


def rescued_and_taken(queue: Claims, job: Claimed) -> None:
    rescued(queue, job)
    assert len(claim(queue, "two")) == 1


def rescued_and_finished(queue: Claims, job: Claimed) -> None:
    rescued(queue, job)
    assert finish(queue, "two", *map(done, claim(queue, "two"))) == {job.id}


def failed_by_rescue(queue: Claims, job: Claimed) -> None:
    assert rescue(queue, register(queue, "one"), most=0) == (1, 1)


def failed_by_rescue_and_retried(queue: Claims, job: Claimed) -> None:
    failed_by_rescue(queue, job)
    assert queue.retry([job.id]) == 1


def given_back_by_rescue(queue: Claims, job: Claimed) -> None:
    assert rescue(queue, register(queue, "one"), begun=set()) == (1, 0)


def given_back_by_rescue_and_taken(queue: Claims, job: Claimed) -> None:
    given_back_by_rescue(queue, job)
    assert [again.attempt for again in claim(queue, "two")] == [job.attempt]


def put_off(job: Claimed) -> Outcome:
    return Outcome(job, State.SCHEDULED, NOW, NOW + 1, run_after=NOW + 60)


LATE: dict[str, Callable[[Claims, Claimed], object]] = {
    "finish": lambda queue, job: finish(queue, "one", done(job)),
    "finish as failed": lambda queue, job: finish(queue, "one", failed(job)),
    "finish for another attempt": lambda queue, job: finish(queue, "one", put_off(job)),
    "release": lambda queue, job: release(queue, "one", job),
    "progress": lambda queue, job: queue.progress("one", [Progress(job, 5, 9)]),
    "rescue": lambda queue, job: rescue(queue, Peer("one", NOW, locked=True)),
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
    queue: Claims,
    taken: Callable[[Claims, Claimed], None],
    late: Callable[[Claims, Claimed], object],
) -> None:
    job = one(queue, "one")
    taken(queue, job)
    before = everything()
    late(queue, job)
    assert everything() == before


@pytest.mark.parametrize("word", ["finish", "finish as failed", "finish for another attempt"])
def test_what_ended_before_the_rescue_stays_as_it_ended(queue: Claims, word: str) -> None:
    job = one(queue, "one")
    LATE[word](queue, job)
    before = everything()
    assert rescue(queue, register(queue, "one")) == (0, 0)
    assert everything() == before


def meanwhile(queue: Claims, second: Callable[[Claims], Any]) -> threading.Thread:
    """Begin something in a thread; what it needs may be locked until this thread's turn commits."""
    thread = threading.Thread(target=at_once, args=[second])
    thread.start()
    time.sleep(0.1)
    return thread


def test_a_finish_that_waits_for_the_rescue_is_refused_and_the_other_way_round(
    queue: Claims,
) -> None:
    """Each begins while the other has written and not committed."""
    accepted: list[set[UUID]] = []
    job, peer = one(queue, "one"), register(queue, "one")
    with queue.turn():
        assert rescue(queue, peer) == (1, 0)
        late = meanwhile(queue, lambda own: accepted.append(finish(own, "one", done(job))))
    late.join()
    assert accepted == [set()]
    assert (row(job.id)["state"], row(job.id)["rescues"]) == ("ready", 1)

    [job], peer = claim(queue, "one"), register(queue, "one")
    with queue.turn():
        assert queue.finish("one", [failed(job)]) == {job.id}
        late = meanwhile(queue, partial(rescue, peer=peer))
    late.join()
    assert (row(job.id)["state"], row(job.id)["rescues"]) == ("failed", 1)
    assert [error.message for error in Attempt.objects.all()] == ["it broke"]


@pytest.mark.parametrize("begun", [None, set()], ids=["begun", "in line"])
def test_a_job_that_goes_to_another_while_it_is_being_rescued_stays_with_that_one(
    queue: Claims, begun: set[UUID] | None
) -> None:
    """The rescue has read that the dead one runs it, and waits to write."""
    job, peer = one(queue, "one"), register(queue, "one")
    results: list[Any] = []
    with queue.turn():
        assert queue.release("one", [job]) == {job.id}
        assert [taken.id for taken in queue.claim("two", 1, NOW)] == [job.id]
        late = meanwhile(queue, lambda own: results.append(rescue(own, peer, begun=begun)))
    late.join()
    assert results == [(0, 0)]
    assert (row(job.id)["state"], row(job.id)["consumer"]) == ("running", "two")
    assert (row(job.id)["attempts"], row(job.id)["rescues"]) == (1, 0)


@pytest.mark.parametrize("word", ["finish as failed", "release"])
def test_of_a_rescue_and_a_report_at_once_exactly_one_takes_the_job(
    queue: Claims, word: str
) -> None:
    for _ in range(8):
        job, peer = one(queue, "one"), register(queue, "one")
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


def test_progress_is_noted_for_the_attempt_that_runs(queue: Claims) -> None:
    enqueue(queue, 2)
    first, second = claim(queue, "one")
    queue.progress("one", [Progress(first, 3, 10), Progress(second, 7, None)])
    assert (row(first.id)["progress_done"], row(first.id)["progress_total"]) == (3, 10)
    assert (row(second.id)["progress_done"], row(second.id)["progress_total"]) == (7, None)

    queue.progress("two", [Progress(first, 9, 9)])
    queue.progress("one", [Progress(first._replace(attempt=2), 9, 9)])
    finish(queue, "one", done(second))
    queue.progress("one", [Progress(second, 9, 9)])
    assert [row(job.id)["progress_done"] for job in (first, second)] == [3, 7]


def test_a_consumer_is_told_which_of_its_running_jobs_to_stop(queue: Claims) -> None:
    enqueue(queue, 6)
    mine, theirs = claim(queue, "one", 3), claim(queue, "two", 2)
    assert queue.to_cancel("one") == []
    ids = [job.id for job in [*mine[1:], *theirs]]
    queue.cancel([*ids, *Job.objects.filter(state="ready").values_list("pk", flat=True)], NOW)
    finish(queue, "one", done(mine[2]))

    assert queue.to_cancel("one") == [mine[1].id]
    assert set(queue.to_cancel("two")) == {job.id for job in theirs}


# Pruning


def ended(queue: Claims, state: State, when: float, count: int = 1) -> list[UUID]:
    """Jobs that were made and ended at a time, in the order of their ids."""
    jobs = [new_job(created_at=when) for _ in range(count)]
    queue.enqueue_many(jobs)
    ids = [job.id for job in jobs]
    Job.objects.filter(pk__in=ids).update(state=state, finished_at=at(when), attempts=1)
    return ids


def left() -> list[UUID]:
    return list(Job.objects.order_by("pk").values_list("pk", flat=True))


def test_only_what_ended_in_these_states_and_long_enough_ago_is_pruned(queue: Claims) -> None:
    ids = {state: ended(queue, state, NOW - WEEK) for state in State}
    young = ended(queue, State.SUCCEEDED, NOW)
    for state in (State.SCHEDULED, State.BLOCKED, State.READY, State.RUNNING):
        Job.objects.filter(state=state).update(finished_at=None)

    assert queue.prune([State.SUCCEEDED], NOW - WEEK, None, 100)[0] == 0, "ended at the bound"
    assert queue.prune([State.SUCCEEDED], NOW - WEEK + 0.001, None, 100)[0] == 1
    kept = [id for state in State if state != State.SUCCEEDED for id in ids[state]]
    assert set(left()) == {*kept, *young}

    assert queue.prune([State.FAILED, State.CANCELLED], NOW, None, 100)[0] == 2
    assert set(left()) == {*kept, *young} - {*ids[State.FAILED], *ids[State.CANCELLED]}


def test_a_walk_goes_on_where_it_was_and_ends_at_the_last_row(queue: Claims) -> None:
    old = ended(queue, State.SUCCEEDED, NOW - WEEK, 7)

    count, place = queue.prune([State.SUCCEEDED], NOW, None, 3)
    assert (count, place) == (3, old[2])
    assert left() == old[3:]
    count, place = queue.prune([State.SUCCEEDED], NOW, old[4], 2)
    assert (count, place) == (2, old[6])
    assert left() == old[3:5], "what the walk has passed is not looked at"
    assert queue.prune([State.SUCCEEDED], NOW, place, 3) == (0, None)
    assert queue.prune([State.SUCCEEDED], NOW, None, 3) == (2, None)


def test_a_step_looks_at_no_more_rows_than_it_was_told_whatever_they_are(queue: Claims) -> None:
    waiting = [new_job(created_at=NOW - WEEK) for _ in range(5)]
    queue.enqueue_many(waiting)
    old = ended(queue, State.SUCCEEDED, NOW - WEEK, 2)

    assert queue.prune([State.SUCCEEDED], NOW, None, 5) == (0, waiting[4].id)
    assert queue.prune([State.SUCCEEDED], NOW, waiting[4].id, 5) == (2, None)
    assert not set(old) & set(left())


def test_a_walk_ends_at_rows_that_are_too_young_to_have_ended_long_ago(queue: Claims) -> None:
    ended(queue, State.SUCCEEDED, NOW - WEEK, 2)
    ended(queue, State.SUCCEEDED, NOW, 10)
    assert queue.prune([State.SUCCEEDED], NOW - 1, None, 4) == (2, None)


def test_the_errors_of_a_pruned_job_go_with_it_and_those_of_others_stay(queue: Claims) -> None:
    enqueue(queue, 2, created_at=NOW)
    first, second = claim(queue)
    finish(queue, "one", failed(first, "gone"), failed(second, "kept"))
    Job.objects.filter(pk=second.id).update(finished_at=at(NOW + WEEK))

    assert queue.prune([State.FAILED], NOW + 60, None, 100)[0] == 1

    assert left() == [second.id]
    assert [error.message for error in Attempt.objects.all()] == ["kept"]


@pytest.mark.parametrize("again", ["ready", "failed"])
def test_a_job_that_is_retried_meanwhile_is_not_deleted(queue: Claims, again: str) -> None:
    """Between what the walk has read and what it deletes; in that time it may also have failed anew."""
    enqueue(queue, 2, created_at=NOW)
    first, second = claim(queue)
    finish(queue, "one", failed(first, "gone"), failed(second, "kept"))

    def retry(own: Claims) -> None:
        assert own.retry([second.id]) == 1
        if again == "failed":
            [job] = claim(own, "two")
            finish(own, "two", failed(job)._replace(finished_at=NOW + WEEK))

    retried: list[Any] = []

    def before_the_delete(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if not retried and not sql.startswith("SELECT"):
            retried.append(at_once(retry))
        return execute(sql, *rest)

    with queue.connection.execute_wrapper(before_the_delete):
        count, _ = queue.prune([State.FAILED], NOW + 60, None, 100)

    assert retried
    assert count == 1
    assert left() == [second.id]
    assert row(second.id)["state"] == again
    assert {error.job_id for error in Attempt.objects.all()} == {second.id}
