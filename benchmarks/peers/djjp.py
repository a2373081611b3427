"""djjp, measured like the other queues."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from benchmarks.peers.peer import Peer, Store, timed
from benchmarks.peers.setting_up import django_for


class Djjp(Peer):
    name = "djjp"
    distribution = "djjp"
    stores = ("sqlite", "postgresql")
    settings = "the defaults: 10 threads"

    def missing(self) -> str | None:
        return None  # djjp is always importable here, installed or not

    def version(self) -> str:
        import djjp

        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return djjp.__version__

    def prepare(self, store: Store) -> None:
        django_for(self.name, store)
        from django.core.management import call_command

        call_command("migrate", database="queue", verbosity=0)

    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        django_for(self.name, store)
        from benchmarks.peers import jobs
        from djjp import run_many

        function = jobs.noop if job == "noop" else jobs.nap
        if bulk:
            return timed(lambda: run_many(function.bind(value) for value in values))

        def one_by_one() -> None:
            for value in values:
                function.run_later(value)

        return timed(one_by_one)

    def consume(self, store: Store, slots: int | None) -> None:
        django_for(self.name, store)
        from django.core.management import call_command

        call_command("start_consumer", "--concurrency-limit", str(slots or self.fastest))

    unfinished_sql = "SELECT count(*) FROM djjp_job WHERE state IN ('ready', 'running')"


PEER = Djjp()
