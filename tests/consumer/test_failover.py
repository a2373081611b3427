"""A failover to a standby loses no acknowledged job and runs none twice, and consumers go on there."""

from __future__ import annotations

import threading
from collections import Counter
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from djjp import current_job, job
from djjp.databases import queue_database
from djjp.exceptions import QueueUnavailable
from djjp.models import Job
from tests.support.consumers import consuming
from tests.support.databases import QUEUES
from tests.support.processes import eventually
from tests.support.projects import alias_for
from tests.support.replication import replicated_pair

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.one_pair,
    pytest.mark.skipif("postgresql" not in QUEUES, reason="there is no PostgreSQL"),
]

#: The ids of the jobs, one for each execution.
EXECUTED: list[UUID] = []


@job(name="failover.note")
def note() -> None:
    current = current_job()
    assert current is not None
    EXECUTED.append(current.id)


class Enqueuer(threading.Thread):
    """Enqueues jobs one by one until it is stopped; goes on when the queue does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged: list[UUID] = []
        self.refused = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            while not self.stopped.wait(0.001):
                try:
                    self.acknowledged.append(note.run_later().id)
                except QueueUnavailable:
                    self.refused += 1
        finally:
            connections.close_all()

    def enqueues(self, more: int) -> None:
        """Wait until this number of further jobs is acknowledged."""
        goal = len(self.acknowledged) + more
        eventually(lambda: len(self.acknowledged) >= goal, within=60)


def test_after_a_failover_each_acknowledged_job_has_run_once() -> None:
    EXECUTED.clear()
    with (
        replicated_pair() as pair,
        alias_for(queue_database(pair.url)) as alias,
        override_settings(DJJP={"db_name": alias}),
    ):
        call_command("migrate", database=alias, verbosity=0)
        connections[alias].close()
        enqueuer = Enqueuer()
        with consuming(4):
            enqueuer.start()
            try:
                enqueuer.enqueues(100)
                pair.kill_primary()
                before = len(EXECUTED)
                pair.promote()
                enqueuer.enqueues(100)
            finally:
                enqueuer.stopped.set()
                enqueuer.join(60)
            live = Job.objects.exclude(state__in=["succeeded", "failed", "cancelled"])
            eventually(lambda: not live.exists(), within=60)
        counts = Counter(EXECUTED)
        assert before < len(counts)
        assert [id for id in enqueuer.acknowledged if id not in counts] == []
        assert [id for id, count in counts.items() if count > 1] == []
        assert {*Job.objects.values_list("state", flat=True)} == {"succeeded"}
        connections[alias].close()
