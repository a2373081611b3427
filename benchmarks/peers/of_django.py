"""The common part of queues that are backends of Django's task framework."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.peer import Peer, Store, timed
from benchmarks.peers.setting_up import django_for


class DjangoPeer(Peer):
    """Creates its tables by migrations, and enqueues the tasks of `tasks.py` one by one."""

    bulk = False

    def prepare(self, store: Store) -> None:
        django_for(self.name, store)
        from django.core.management import call_command

        call_command("migrate", verbosity=0)

    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        django_for(self.name, store)
        from benchmarks.peers import tasks

        task = tasks.noop if job == "noop" else tasks.nap

        def one_by_one() -> None:
            for value in values:
                task.enqueue(value)

        return timed(one_by_one)
