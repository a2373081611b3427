"""django-tasks-db, the database backend of the tasks framework's author.

A worker runs one task at a time, and its README names no setting for speed; more slots are more processes.
`--interval 0` and `--no-startup-delay` are its own options.
"""

from __future__ import annotations

from benchmarks.peers.of_django import DjangoPeer
from benchmarks.peers.peer import Store
from benchmarks.peers.setting_up import django_for


class DjangoTasksDb(DjangoPeer):
    name = "django_tasks_db"
    distribution = "django-tasks-db"
    stores = ("sqlite", "postgresql")
    settings = "db_worker --interval 0 --no-startup-delay; one process for each slot; djjp's SQLite settings"
    most = 500

    def consume(self, store: Store, slots: int | None) -> None:
        django_for(self.name, store)
        from django.core.management import call_command

        call_command("db_worker", "--interval", "0", "--no-startup-delay", verbosity=0)

    def processes(self, slots: int | None) -> int:
        return slots or 1

    unfinished_sql = "SELECT count(*) FROM django_tasks_database_dbtaskresult WHERE status IN ('READY', 'RUNNING')"


PEER = DjangoTasksDb()
