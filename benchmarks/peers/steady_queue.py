"""steady-queue, Solid Queue for Django.

Its README, "Configuration": `threads` is the number of jobs that a worker claims and runs at once;
`polling_interval` is the pause between polls (0.1 s by default). The supervisor forks one worker, and a dispatcher
that has no work here.
"""

from __future__ import annotations

from benchmarks.peers.of_django import DjangoPeer
from benchmarks.peers.peer import Store
from benchmarks.peers.setting_up import django_for


class SteadyQueue(DjangoPeer):
    name = "steady_queue"
    distribution = "steady-queue"
    stores = ("sqlite", "postgresql")
    settings = "one worker of {slots} threads, polls every 10 ms; djjp's SQLite settings"
    fastest = 10
    most = 500

    def consume(self, store: Store, slots: int | None) -> None:
        django_for(self.name, store, slots or self.fastest)
        from django.core.management import call_command

        call_command("steady_queue")

    unfinished_sql = "SELECT count(*) FROM steady_queue_job WHERE finished_at IS NULL"


PEER = SteadyQueue()
