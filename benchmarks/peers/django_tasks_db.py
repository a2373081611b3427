"""django-tasks-db, the database backend of the tasks framework's author.

A worker runs one task at a time, and its README knows no setting for speed; more at once is more processes.
`--interval 0` and `--no-startup-delay` are its own options.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.peer import Peer, Store, timed
from benchmarks.peers.setting_up import django_for


class DjangoTasksDb(Peer):
    name = "django_tasks_db"
    distribution = "django-tasks-db"
    stores = ("sqlite", "postgresql")
    settings = "db_worker --interval 0 --no-startup-delay; one process for each slot; djjp's SQLite settings"
    most = 500
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

    def consume(self, store: Store, slots: int | None) -> None:
        django_for(self.name, store)
        from django.core.management import call_command

        call_command("db_worker", "--interval", "0", "--no-startup-delay", verbosity=0)

    def processes(self, slots: int | None) -> int:
        return slots or 1

    unfinished_sql = "SELECT count(*) FROM django_tasks_database_dbtaskresult WHERE status IN ('READY', 'RUNNING')"


PEER = DjangoTasksDb()
